"""Embeddings of all sounds and pictures of a folder, computed once, and ranked; store.py keeps them.

A ranking is one product of all embeddings with the query, as fast as memory can be read: a quarter of a
second for 200,000 embeddings of 1,024 values on one CPU core. An approximate index (FAISS) would save time
that nobody waits for below a million files, and cost exactness.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from demo.store import Stored, read_store, record_file, write_store
from demo.weights import Weights
from ignite_trainer.support.progress import Progress
from model.audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from model.audioclip import AudioCLIP
from model.clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES
from model.zero_shot import KINDS, SUFFIXES, Kind
from utils.datasets.sources.cache import default_cache_folder
from utils.datasets.sources.cells import is_plain
from utils.datasets.sources.walking import files_below

Embedding: TypeAlias = NDArray[np.float32]

_UNDECODED = {
    **dict.fromkeys(sorted(UNDECODED_AUDIO_SUFFIXES), CONVERT_AUDIO),
    **dict.fromkeys(sorted(UNDECODED_IMAGE_SUFFIXES), CONVERT_IMAGE),
}
GROUP: dict[Kind, int] = {"audio": 8, "image": 32}  # files embedded at once
SAVE_EVERY_SECONDS = 60.0


class Match(NamedTuple):
    """One line of a ranking."""

    path: str
    """Relative to the folder, with slashes."""
    similarity: float
    """Cosine of the embeddings, -1 to 1."""


class Update(NamedTuple):
    """What was done to bring an index up to date, in numbers of files."""

    found: int
    """Sounds and pictures in the folder."""
    embedded: int
    """Whose embeddings were computed now."""
    removed: int
    """That are no longer there."""
    wrong: dict[str, str]
    """Paths of those that cannot be used, and why."""


class FolderIndex:
    """The embeddings of the sounds and pictures of a folder.

    A file is told by its content: one that was renamed, copied or touched is not embedded again.

    Args:
        folder: searched with all folders in it, linked ones too, hidden ones left out.
        weights: of the model that embeds.
        store: folder where embeddings are kept; None: one in the cache folder.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(self, folder: str | Path, weights: Weights, *, store: Path | None = None) -> None:
        self.folder, self.weights = Path(folder).expanduser().resolve(), weights
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder.")
        self.store = store or _default_store(self.folder, weights)
        self._paths: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
        self._rows: dict[Kind, NDArray[np.float32]] = {}

    def update(self, load: Callable[[], AudioCLIP], *, progress: bool = True) -> Update:
        """Embed what is new, and forget what is gone; what was done is kept even if this is interrupted.

        Args:
            load: gives the model; called only if there is something to embed.
            progress: show a bar, or lines where there is no terminal.

        Raises:
            OSError: the embeddings cannot be written.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store / "lock"):
            before = read_store(self.store)
            now = self._begin(before)
            contents, wrong = self._look(before, now)
            needed = set(contents.values())
            if now.model == before.model:
                now.embeddings = {key: row for key, row in before.embeddings.items() if key in needed}
                now.unusable = {key: why for key, why in before.unusable.items() if key in needed}
            todo = {key: path for path, key in contents.items() if key not in now.embeddings}
            todo = {key: path for key, path in todo.items() if key not in now.unusable}
            if todo or not _same(before, now):
                self._embed(todo, now, load, progress)
        self._adopt(contents, now)
        return Update(
            found=len(contents) + len(wrong),
            embedded=sum(key in now.embeddings for key in todo),
            removed=len(before.files.keys() - now.files.keys()),
            wrong=wrong | {path: now.unusable[key] for path, key in contents.items() if key in now.unusable},
        )

    def paths(self, kind: Kind) -> Sequence[str]:
        """Files of a kind that are in the index, relative to the folder."""
        return self._paths[kind]

    def rank(self, query: Embedding, kind: Kind, count: int = 10) -> list[Match]:
        """Find the files of a kind that are nearest to an embedding `[D]` of norm 1, best first."""
        if not self._paths[kind]:
            return []
        similarities = self._rows[kind] @ query
        best = np.argsort(-similarities, kind="stable")[:count]
        return [Match(self._paths[kind][place], float(similarities[place])) for place in best]

    def embedding(self, path: str) -> Embedding | None:
        """The embedding of a file of the index, `[D]`; None: it is not in it."""
        kind = SUFFIXES.get(Path(path).suffix.lower())
        if kind is None or path not in self._paths[kind]:
            return None
        row: Embedding = self._rows[kind][self._paths[kind].index(path)]
        return row

    def _begin(self, before: Stored) -> Stored:
        """An empty store that says which model it is of."""
        weights = {str(path): record_file(path, before.weights.get(str(path))) for path in self.weights.files}
        hashes = [record.sha256 for record in weights.values()]
        return Stored(model={**self.weights.description, "sha256": hashes}, weights=weights)

    def _look(self, before: Stored, now: Stored) -> tuple[dict[str, str], dict[str, str]]:
        """Find what the folder holds: the content of every file, and why a file cannot be read, by path."""
        contents, wrong = {}, dict[str, str]()

        def unreadable(folder: str, error: OSError) -> None:
            wrong[folder] = f"cannot be read ({error.strerror})"

        for parent, name in files_below(self.folder, on_error=unreadable):
            path, suffix = f"{parent}{name}", Path(name).suffix.lower()
            if suffix not in SUFFIXES:
                continue
            kind = SUFFIXES[suffix]
            if suffix in _UNDECODED:  # videos may be large: do not hash them
                wrong[path] = f"{suffix[1:]} is not decoded: {_UNDECODED[suffix]}"
                continue
            if not is_plain(path):
                wrong[path] = "its name is not one that can be printed"
                continue
            try:
                now.files[path] = record_file(self.folder / path, before.files.get(path))
            except OSError as error:
                wrong[path] = f"cannot be read ({error.strerror})"
            else:
                contents[path] = f"{kind}:{now.files[path].sha256}"
        return contents, wrong

    def _embed(
        self, todo: Mapping[str, str], now: Stored, load: Callable[[], AudioCLIP], progress: bool
    ) -> None:
        """Embed files, given by their content, and keep what was reached."""
        model = load() if todo else None  # if that fails, what was kept before stays
        saved = time.monotonic()
        try:
            with Progress(desc="Embedding", total=len(todo), unit="files", shown=progress) as bar:
                for kind, keys in _groups(todo):
                    assert model is not None
                    results = embed_files(model, kind, [self.folder / todo[key] for key in keys])
                    for key, result in zip(keys, results, strict=True):
                        if isinstance(result, str):
                            now.unusable[key] = result
                        else:
                            now.embeddings[key] = result
                    bar.update(len(keys))
                    if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                        write_store(self.store, now)
                        saved = time.monotonic()
        finally:
            write_store(self.store, now)

    def _adopt(self, contents: Mapping[str, str], now: Stored) -> None:
        """Arrange the rows of each kind in one array, in the order of the paths."""
        for kind in KINDS:
            chosen = {
                path: now.embeddings[key]
                for path, key in contents.items()
                if key.startswith(f"{kind}:") and key in now.embeddings
            }
            self._paths[kind] = [*chosen]
            if chosen:
                self._rows[kind] = np.stack([*chosen.values()])


def embed_files(model: AudioCLIP, kind: Kind, paths: Sequence[Path]) -> list[Embedding | str]:
    """Embed files of one kind together: for each its embedding `[D]`, or why it has none."""
    embed = model.embed_audio if kind == "audio" else model.embed_image
    try:
        return [*embed(paths).cpu().numpy()]
    except (ValueError, OSError) as error:
        if len(paths) == 1:
            return [str(error).removeprefix(f"{paths[0]}: ")]
    # One of them is wrong: each by itself. The embedding of a file does not depend on the others.
    return [result for path in paths for result in embed_files(model, kind, [path])]


def _groups(todo: Mapping[str, str]) -> Iterator[tuple[Kind, list[str]]]:
    for kind in KINDS:
        keys = [key for key in todo if key.startswith(f"{kind}:")]
        for begin in range(0, len(keys), GROUP[kind]):
            yield kind, keys[begin : begin + GROUP[kind]]


def _same(before: Stored, now: Stored) -> bool:
    """Whether there is nothing to write; embeddings of the same content by the same model are the same."""
    return (before.model, before.weights, before.files, before.embeddings.keys(), before.unusable) == (
        now.model,
        now.weights,
        now.files,
        now.embeddings.keys(),
        now.unusable,
    )


def _default_store(folder: Path, weights: Weights) -> Path:
    key = hashlib.sha256(os.fsencode(f"{folder}\0{weights.source}")).hexdigest()[:16]
    return default_cache_folder() / f"index-{key}"
