"""`search`: ranks the files of a folder by a text, a sound or an image."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from ..audioclip import AudioCLIP
from ..zero_shot import KINDS, kind_of
from .index import FolderIndex, Unusable, embed_files
from .messages import escaped, name_unusable, open_weights, say, warn_of_untrained
from .store import Embedding

_TITLES = {"audio": "Sounds", "image": "Images"}
_WRONG_SHOWN = 20


def search(
    folder: Path,
    *,
    text: str | None,
    like: Path | None,
    count: int,
    weights: str | None,
    store: Path | None,
) -> None:
    """Print the sounds and the images of a folder that are most similar to a text or a file.

    Args:
        folder: folder to search; its new and changed files are embedded first.
        text: text to search for; if `like` is None, too, texts are read from standard input.
        like: sound or image to search by.
        count: maximum number of sounds, and of images, to print.
        weights: see `describe_weights`; None for the released ones.
        store: folder in which a subfolder keeps the embeddings; None for the cache folder.

    Raises:
        ValueError: The text is too long, or `like` is unusable.
        OSError: The folder does not exist, or the embeddings cannot be written.
    """
    index = FolderIndex(folder, open_weights(weights), store=store)
    load = cache(index.weights.load)
    update = index.update(load)
    say(index.summary(update))
    name_unusable(update.wrong, most=_WRONG_SHOWN)
    if like is not None:
        _show(index, embed_query(load(), like), count)
    elif text is not None:
        warn_of_untrained(index.weights, [text])
        _show(index, load().embed_text(text).cpu().numpy()[0], count)
    else:
        model, warned = load(), False
        while line := _ask():
            warned = warned or warn_of_untrained(index.weights, [line])
            try:
                _show(index, model.embed_text(line).cpu().numpy()[0], count)
            except ValueError as error:  # too long
                say(str(error))


def embed_query(model: AudioCLIP, path: Path) -> Embedding:
    """Return the embedding `[D]` of a sound or image; raise ValueError for any other or unusable file."""
    (result,) = embed_files(model, kind_of(path, name=str(path)), [path])
    if isinstance(result, Unusable):
        raise ValueError(f"{path}: {result.reason}")
    return result


def _ask() -> str:
    """Read the next text from stdin; an empty text means the end."""
    if sys.stdin.isatty():
        print("Text (empty to end): ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _show(index: FolderIndex, query: Embedding, count: int) -> None:
    for kind in KINDS:
        if matches := index.rank(query, kind, count):
            print(_TITLES[kind])
        for place, match in enumerate(matches, start=1):
            print(f"{place:3}  {match.similarity:6.3f}  {escaped(match.path)}")
