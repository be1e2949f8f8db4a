"""`search`: ranks the files of folders by a text, a sound or an image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..audioclip import AudioCLIP
from ..zero_shot import KINDS, kind_of
from .embedding import Unusable, embed_files
from .index import FolderIndex, Index
from .messages import loader, name_unusable, open_weights, warn_of_untrained
from .printing import escaped, say
from .store import Embedding

_TITLES = {"audio": "Sounds", "image": "Images"}
_WRONG_SHOWN = 20


def search(
    folders: Sequence[Path],
    *,
    text: str | None,
    like: Path | None,
    count: int,
    weights: str | None,
    store: Path | None,
) -> int:
    """Print the sounds and the images of folders that are most similar to a text or a file.

    Args:
        folders: folders to search; their new and changed files are embedded first.
        text: text to search for; if `like` is None, too, texts are read from standard input.
        like: sound or image to search by.
        count: maximum number of sounds, and of images, to print.
        weights: see `describe_weights`; None for the released ones.
        store: folder in which a subfolder keeps the embeddings; None for the cache folder.

    Returns:
        1 if a text from standard input is too long, otherwise 0.

    Raises:
        ValueError: `text` is too long, or `like` is unusable.
        OSError: A folder or `like` does not exist, or the embeddings cannot be written.
    """
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder. (A text to search for comes before --in.)")
    if like is not None:
        kind_of(like, name=str(like))
        if not like.is_file():
            raise FileNotFoundError(f"{like}: no such file.")
    described = open_weights(weights)
    index = (
        FolderIndex(folders[0], described, store=store)
        if len(folders) == 1
        else Index(folders, described, store=store)
    )
    load = loader(index.weights)
    query: Embedding | None = None  # embedded first, so that its errors do not wait for the folder
    if like is not None:
        query = embed_query(load(), like)
    elif text is not None:
        warn_of_untrained(index.weights, [text])
        query = _embed_text(load(), text)
    update = index.update(load)
    say(index.summary(update))
    name_unusable(update.wrong, most=_WRONG_SHOWN)
    if query is None:
        return _answer_texts(index, load(), count)
    _show(index, query, count)
    return 0


def embed_query(model: AudioCLIP, path: Path) -> Embedding:
    """Return the embedding `[D]` of a sound or image; raise ValueError for any other or unusable file."""
    (result,) = embed_files(model, kind_of(path, name=str(path)), [path])
    if isinstance(result, Unusable):
        raise ValueError(f"{path}: {result.reason}")
    return result


def _answer_texts(index: Index, model: AudioCLIP, count: int) -> int:
    """Print a ranking below each text from stdin; return 1 if one is too long, otherwise 0."""
    status, warned = 0, False
    for text in _texts():
        print(escaped(text))
        warned = warned or warn_of_untrained(index.weights, [text])
        try:
            _show(index, _embed_text(model, text), count)
        except ValueError as error:  # too long
            say(str(error))
            status = 1
    return status


def _texts() -> Iterator[str]:
    """Read texts from stdin; an empty line ends them in a terminal, and is skipped in a file or pipe."""
    in_terminal = sys.stdin.isatty()
    while True:
        if in_terminal:
            print("Text (empty to end): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or (in_terminal and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _embed_text(model: AudioCLIP, text: str) -> Embedding:
    embedding: Embedding = model.embed_text(text).cpu().numpy()[0]
    return embedding


def _show(index: Index, query: Embedding, count: int) -> None:
    for kind in KINDS:
        if matches := index.rank(query, kind, count):
            print(_TITLES[kind])
        for place, match in enumerate(matches, start=1):
            print(f"{place:3}  {match.similarity:6.3f}  {escaped(match.path)}")
