"""Embeds sounds and images once, keeps the embeddings, and ranks them.

A ranking is one product of all embeddings with the query, limited by memory bandwidth: a quarter of a second
for 200,000 embeddings of 1,024 values on one CPU core. An approximate index (FAISS) would save no noticeable
time below a million files, and would not be exact.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ..audioclip import AudioCLIP
from ..storage.places import default_cache_folder
from ..weights.described import DescribedWeights
from ..zero_shot import KINDS, SUFFIXES, Kind, label_probabilities
from .finding import FoundFiles
from .messages import Progress
from .store import Embedding, FileRecord, Stored, read_store, write_store

BATCH_SIZES: dict[Kind, int] = {"audio": 8, "image": 32}
"""Files per batch."""

_SHORTEST_PAUSE = 1.0  # seconds between two saves of the store
_PAUSE_PER_SAVE = 20  # minimum pause, in durations of the last save: saving takes at most 5 % of the time


class Match(NamedTuple):
    """One line of a ranking."""

    path: str
    """Name of the file."""
    similarity: float
    """Cosine similarity of the embeddings, -1 to 1."""


class Entry(NamedTuple):
    """An embedded file."""

    path: str
    """Name of the file; see `FoundFiles`."""
    kind: Kind
    sha256: str
    embedding: Embedding
    """`[D]`, norm 1."""


class Update(NamedTuple):
    """File counts of an index update.

    Attributes:
        found: number of sounds and images, including unusable ones.
        embedded: number of newly embedded files.
        removed: number of files that no longer exist.
        wrong: reason why a file is unusable, by name.
    """

    found: int
    embedded: int
    removed: int
    wrong: dict[str, str]


class Index:
    """The embeddings of sounds and images.

    Files are identified by content: a renamed, copied or touched file is not embedded again.

    Args:
        paths: files and folders; see `FoundFiles`.
        weights: weights of the embedding model.
        relative_to: folder to which the files' names are relative; None for names that start as `paths` do.
        store: folder for the embeddings; None for a subfolder of the cache folder, one for each combination
            of weights and folders, where a file counts as its folder.
        batch_size: number of files, and of windows of sounds, to embed at once; None for `BATCH_SIZES`.

    Attributes:
        entries: embedded files, in the order of `paths` and then by name; set by `update`.
        weights_sha256: hash of each weights file; set by `update`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        weights: DescribedWeights,
        *,
        relative_to: Path | None = None,
        store: Path | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.weights = weights
        self.entries: list[Entry] = []
        self.weights_sha256: dict[Path, str] = {}
        self._paths, self._relative_to = paths, relative_to
        self._batch_sizes = dict.fromkeys(KINDS, batch_size) if batch_size else BATCH_SIZES
        self._rows: dict[Kind, Embedding] = {}
        folders = {(path if path.is_dir() else path.parent).resolve() for path in paths}
        source = weights.source and weights.source.resolve()
        key = hashlib.sha256(os.fsencode("\0".join([*sorted(map(str, folders)), str(source)])))
        self.store = store or default_cache_folder() / f"index-{key.hexdigest()[:16]}"

    def update(self, load: Callable[[], AudioCLIP]) -> Update:
        """Embed new files and drop deleted files; finished embeddings are kept if interrupted.

        `load` is called, for each batch, only if there is something to embed.

        Raises:
            OSError: The embeddings cannot be written.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store / "lock"):
            before = read_store(self.store)
            now = self._carry_over(before)
            known = len(now.embeddings)
            found = FoundFiles(self._paths, relative_to=self._relative_to)
            files, wrong = found.files, found.wrong
            try:
                wrong |= self._embed(files, now, load)
                embedded = len(now.embeddings) - known
                removed = _drop_deleted(now, {*map(str, files.values())})
            finally:
                # If the model changed but cannot be loaded, the embeddings of the other one are kept.
                if now.facts() != before.facts() and (now.model == before.model or now.embeddings):
                    write_store(self.store, now)
        self.weights_sha256 = {Path(path): record.sha256 for path, record in now.weights.items()}
        contents = {name: _content(path, now) for name, path in files.items() if name not in wrong}
        wrong |= {name: now.unusable[key] for name, key in contents.items() if key in now.unusable}
        self._list({name: key for name, key in contents.items() if name not in wrong}, now)
        return Update(found=len(self.entries) + len(wrong), embedded=embedded, removed=removed, wrong=wrong)

    def summary(self, update: Update) -> str:
        """Count the files in a sentence."""
        found = {"sound": len(self.paths("audio")), "image": len(self.paths("image"))}
        counts = ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in found.items())
        return (
            f"{counts}; newly embedded: {update.embedded}, removed: {update.removed}, "
            f"unusable: {len(update.wrong)}"
        )

    def paths(self, kind: Kind) -> list[str]:
        """Return the names of the embedded files of a kind."""
        return [entry.path for entry in self.entries if entry.kind == kind]

    def rank(self, query: Embedding, kind: Kind, count: int = 10) -> list[Match]:
        """Return the files of a kind that are nearest to a unit-norm embedding `[D]`, best first."""
        if kind not in self._rows:
            return []
        paths, similarities = self.paths(kind), self._rows[kind] @ query
        best = np.argsort(-similarities, kind="stable")[:count]
        return [Match(paths[place], float(similarities[place])) for place in best]

    def embedding(self, path: str) -> Embedding | None:
        """Return the embedding `[D]` of a file, or None if it is not in the index."""
        return next((entry.embedding for entry in self.entries if entry.path == path), None)

    def _carry_over(self, before: Stored) -> Stored:
        """Start from the contents of the store, without embeddings that another model computed."""
        weights = {str(p): FileRecord.of(p, before.weights.get(str(p))) for p in self.weights.files}
        hashes = [file.sha256 for file in weights.values()]
        now = Stored({**self.weights.description, "sha256": hashes}, weights, dict(before.files))
        if now.model == before.model:
            now.embeddings, now.unusable = dict(before.embeddings), dict(before.unusable)
        return now

    def _embed(self, files: Mapping[str, Path], now: Stored, load: Callable[[], AudioCLIP]) -> dict[str, str]:
        """Embed the new and changed files, and save them at times; return reasons for unreadable files."""
        wrong = dict[str, str]()
        todo = {name: path for name, path in files.items() if not _is_done(path, now)}
        saved, duration = time.monotonic(), 0.0
        with Progress(total=len(todo)) as progress:
            for kind, names in self._batches(todo):
                new = dict[str, Path]()
                for name in names:
                    path = todo[name]
                    try:
                        now.files[str(path)] = FileRecord.of(path, now.files.get(str(path)))
                    except OSError as error:
                        wrong[name] = f"cannot be read ({error.strerror})"
                        continue
                    key = _content(path, now)
                    if not now.knows(key):
                        new[key] = path
                if new:
                    size = self._batch_sizes[kind]
                    results = embed_files(load(), kind, [*new.values()], batch_size=size)
                    for key, result in zip(new, results, strict=True):
                        if isinstance(result, str):
                            now.unusable[key] = result
                        else:
                            now.embeddings[key] = result
                progress.update(len(names))
                if time.monotonic() - saved > max(_SHORTEST_PAUSE, _PAUSE_PER_SAVE * duration):
                    begun = time.monotonic()
                    write_store(self.store, now)
                    saved = time.monotonic()
                    duration = saved - begun
        return wrong

    def _batches(self, todo: Mapping[str, Path]) -> Iterator[tuple[Kind, list[str]]]:
        for kind in KINDS:
            names = [name for name, path in todo.items() if _kind(path) == kind]
            for begin in range(0, len(names), self._batch_sizes[kind]):
                yield kind, names[begin : begin + self._batch_sizes[kind]]

    def _list(self, contents: Mapping[str, str], now: Stored) -> None:
        """Set the entries and rows, given the content of each file by name."""
        rows = dict[str, Embedding]()
        for kind in KINDS:
            names = [name for name, key in contents.items() if key.startswith(f"{kind}:")]
            if names:
                self._rows[kind] = np.stack([now.embeddings[contents[name]] for name in names])
                rows |= zip(names, self._rows[kind], strict=True)
        self.entries = []
        for name, key in contents.items():
            self.entries.append(Entry(name, _kind(Path(name)), key.partition(":")[2], rows[name]))


class FolderIndex(Index):
    """The embeddings of the sounds and images of a folder; names of files are relative to it.

    Raises:
        NotADirectoryError: The folder does not exist.
    """

    def __init__(self, folder: str | Path, weights: DescribedWeights, *, store: Path | None = None) -> None:
        self.folder = Path(folder).expanduser().resolve()
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder.")
        super().__init__([self.folder], weights, relative_to=self.folder, store=store)


def embed_files(
    model: AudioCLIP, kind: Kind, paths: Sequence[Path], *, batch_size: int = 16
) -> list[Embedding | str]:
    """Embed files of one kind; return each file's embedding `[D]`, or the error message.

    `batch_size` windows of sounds or images are encoded at once.
    """
    embed = model.embed_audio if kind == "audio" else model.embed_image
    try:
        return [*embed(paths, batch_size=batch_size).cpu().numpy()]
    except (ValueError, OSError) as error:
        if len(paths) == 1:
            return [str(error).removeprefix(f"{paths[0]}: ")]
    # One of the files is unusable, so embed each alone; embeddings do not depend on each other.
    return [result for path in paths for result in embed_files(model, kind, [path], batch_size=batch_size)]


def score_labels(model: AudioCLIP, kind: Kind, embedding: Embedding, texts: Tensor) -> list[float]:
    """Return the probabilities of K labels, given a file's embedding `[D]` and the labels' `[K, D]`."""
    features = torch.from_numpy(embedding[None].copy()).to(texts.device)
    probabilities: list[float] = label_probabilities(model, kind, features, texts)[0].tolist()
    return probabilities


def _kind(path: Path) -> Kind:
    return SUFFIXES[path.suffix.lower()]


def _content(path: Path, now: Stored) -> str:
    """Return the key of a file's content in the store."""
    return f"{_kind(path)}:{now.files[str(path)].sha256}"


def _is_done(path: Path, now: Stored) -> bool:
    """Return whether a file is unchanged, and embedded or known to be unusable."""
    record = now.files.get(str(path))
    try:
        return record is not None and record.is_of(path) and now.knows(_content(path, now))
    except OSError:
        return False


def _drop_deleted(now: Stored, found: set[str]) -> int:
    """Drop files that no longer exist, and contents of no file; return the number of dropped files."""
    deleted = [path for path in now.files if path not in found and not Path(path).is_file()]
    for path in deleted:
        del now.files[path]
    needed = {_content(Path(path), now) for path in now.files}
    now.embeddings = {key: row for key, row in now.embeddings.items() if key in needed}
    now.unusable = {key: why for key, why in now.unusable.items() if key in needed}
    return len(deleted)
