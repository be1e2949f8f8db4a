"""Embeds sounds and images once, keeps the embeddings, and ranks them.

A ranking is one product of all embeddings with the query, limited by memory bandwidth: a quarter of a second
for 200,000 embeddings of 1,024 values on one CPU core. An approximate index (FAISS) would save no noticeable
time below a million files, and would not be exact.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import soundfile
from filelock import FileLock

from .. import __version__
from ..audioclip import AudioCLIP
from ..storage.places import default_cache_folder
from ..weights.described import DescribedWeights
from ..zero_shot import KINDS, SUFFIXES, Kind
from .embedding import Unusable, embed_files, reason_of
from .finding import FoundFiles
from .messages import Progress
from .store import Embedding, FileRecord, Stored, read_store, write_store

BATCH_SIZES: dict[Kind, int] = {"audio": 8, "image": 32}
"""Files per batch."""

_DECODERS = (
    f"audioclip {__version__}, libsndfile {soundfile.__libsndfile_version__}, Pillow {PIL.__version__}"
)
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

    Files are identified by content: a renamed, copied or touched file is not embedded again. Each folder has
    a store, so commands that name it alone, with others, or only files in it share its embeddings.

    Args:
        paths: files and folders; see `FoundFiles`.
        weights: weights of the embedding model.
        relative_to: folder to which the files' names are relative; None for names that start as `paths` do.
        store: folder for the stores, which are its subfolders: one for each of the folders, and for the
            folder of each of the files, with these weights; None for the cache folder.
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
        self._listed = {path.resolve() for path in paths if path.is_dir()}
        self._stores = dict[Path, Path]()
        for path in paths:
            folder = (path if path.is_dir() else path.parent).resolve()
            key = hashlib.sha256(os.fsencode(f"{folder}\0{weights.source and weights.source.resolve()}"))
            name = f"index-{key.hexdigest()[:16]}"
            self._stores[folder] = (store or default_cache_folder()).expanduser() / name

    def update(self, load: Callable[[], AudioCLIP]) -> Update:
        """Embed new files and drop deleted files; finished embeddings are kept if interrupted.

        `load` is called, for each batch, only if there is something to embed.

        Raises:
            OSError: The embeddings cannot be written.
        """
        found = FoundFiles(self._paths, relative_to=self._relative_to)
        files, wrong, all_stores = found.files, found.wrong, Stored()
        embedded, deleted = 0, set[str]()
        for folder, store in self._stores.items():
            inside = {
                name: path
                for name, path in files.items()
                if path.is_relative_to(folder) and name not in wrong
            }
            store.mkdir(parents=True, exist_ok=True)
            with _locked(store):
                before = read_store(store)
                now = self._carry_over(before, all_stores)
                known = len(now.embeddings)
                try:
                    wrong |= self._embed(inside, now, load, store)
                    embedded += len(now.embeddings) - known
                    if folder in self._listed:  # otherwise, renamed files may not have been found
                        deleted |= _drop_deleted(now, {*map(str, inside.values())})
                finally:
                    # If the model changed but cannot be loaded, the embeddings of the other one are kept.
                    if now.facts() != before.facts() and (now.model == before.model or now.embeddings):
                        write_store(store, now)
            all_stores.add(now)
        self.weights_sha256 = {Path(path): record.sha256 for path, record in all_stores.weights.items()}
        contents = {name: _content(path, all_stores) for name, path in files.items() if name not in wrong}
        unusable = all_stores.unusable
        wrong |= {name: unusable[key] for name, key in contents.items() if key in unusable}
        self._list({name: key for name, key in contents.items() if name not in wrong}, all_stores)
        return Update(len(self.entries) + len(wrong), embedded, removed=len(deleted), wrong=wrong)

    def summary(self, update: Update) -> str:
        """Count the files in a sentence."""
        found = {"sound": len(self.paths("audio")), "image": len(self.paths("image"))}
        counts = ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in found.items())
        others = {"deleted files dropped": update.removed, "unusable": len(update.wrong)}
        rest = "".join(f", {what}: {count}" for what, count in others.items() if count)
        return f"{counts}; newly embedded: {update.embedded}{rest}"

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

    def _carry_over(self, before: Stored, others: Stored) -> Stored:
        """Start from what this store and the earlier ones hold, except what another model computed."""
        known = before.weights | others.weights
        weights = {str(p): FileRecord.of(p, known.get(str(p))) for p in self.weights.files}
        hashes = [file.sha256 for file in weights.values()]
        model = {**self.weights.description, "sha256": hashes}
        now = Stored(model, weights, dict(before.files), decoders=_DECODERS)
        now.embeddings = dict(others.embeddings)
        now.unusable = dict(others.unusable)
        if now.model == before.model:
            now.embeddings |= before.embeddings
            now.unusable |= before.unusable if now.decoders == before.decoders else {}
        return now

    def _embed(
        self, files: Mapping[str, Path], now: Stored, load: Callable[[], AudioCLIP], store: Path
    ) -> dict[str, str]:
        """Embed the new and changed files, and save them at times; return reasons for unreadable files."""
        wrong = dict[str, str]()
        todo = {name: path for name, path in files.items() if not _is_done(path, now)}
        saved, duration = time.monotonic(), 0.0
        with Progress(total=len(todo)) as progress:
            for kind, names in self._batches(todo):
                wrong |= self._embed_batch(kind, {name: todo[name] for name in names}, now, load)
                progress.update(len(names))
                if time.monotonic() - saved > max(_SHORTEST_PAUSE, _PAUSE_PER_SAVE * duration):
                    begun = time.monotonic()
                    write_store(store, now)
                    saved = time.monotonic()
                    duration = saved - begun
        return wrong

    def _embed_batch(
        self, kind: Kind, files: Mapping[str, Path], now: Stored, load: Callable[[], AudioCLIP]
    ) -> dict[str, str]:
        wrong, contents = dict[str, str](), dict[str, list[str]]()
        for name, path in files.items():
            try:
                now.files[str(path)] = FileRecord.of(path, now.files.get(str(path)))
            except OSError as error:
                wrong[name] = reason_of(error, path)
            else:
                contents.setdefault(_content(path, now), []).append(name)
        new = {key: files[names[0]] for key, names in contents.items() if not now.knows(key)}
        if not new:
            return wrong
        results = embed_files(load(), kind, [*new.values()], batch_size=self._batch_sizes[kind])
        for (key, path), result in zip(new.items(), results, strict=True):
            if not now.files[str(path)].is_of(path):  # what was embedded may not be what was hashed
                wrong |= dict.fromkeys(contents[key], "changed while it was read")
            elif not isinstance(result, Unusable):
                now.embeddings[key] = result
            elif result.is_permanent:
                now.unusable[key] = result.reason
            else:
                wrong |= dict.fromkeys(contents[key], result.reason)
        return wrong

    def _batches(self, todo: Mapping[str, Path]) -> Iterator[tuple[Kind, list[str]]]:
        for kind in KINDS:
            names = [name for name, path in todo.items() if _kind(path) == kind]
            for begin in range(0, len(names), self._batch_sizes[kind]):
                yield kind, names[begin : begin + self._batch_sizes[kind]]

    def _list(self, contents: Mapping[str, str], now: Stored) -> None:
        """Set the entries and rows, given the content of each file by name."""
        rows = dict[str, Embedding]()
        self._rows = {}
        for kind in KINDS:
            names = [name for name, key in contents.items() if key.startswith(f"{kind}:")]
            if names:
                self._rows[kind] = np.stack([now.embeddings[contents[name]] for name in names])
                rows |= zip(names, self._rows[kind], strict=True)
        self.entries = []
        for name, key in contents.items():
            self.entries.append(Entry(name, _kind(Path(name)), key.partition(":")[2], rows[name]))


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    try:
        lock = FileLock(store / "lock").acquire()
    except NotImplementedError as error:
        raise OSError(
            f"{store}: its file system has no locks. Set AUDIOCLIP_CACHE to a folder on another one."
        ) from error
    with lock:
        yield


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


def _kind(path: Path) -> Kind:
    return SUFFIXES[path.suffix.lower()]


def _content(path: Path, now: Stored) -> str:
    """Return the key of a file's content in the store."""
    return f"{_kind(path)}:{now.files[str(path)].sha256}"


def _is_done(path: Path, now: Stored) -> bool:
    """Return whether a file is unchanged, and embedded or known to be unusable."""
    record = now.files.get(str(path))
    return record is not None and record.is_of(path) and now.knows(_content(path, now))


def _drop_deleted(now: Stored, found: set[str]) -> set[str]:
    """Drop files that no longer exist, and contents of no file; return the paths of the dropped files."""
    deleted = {path for path in now.files if path not in found and _is_deleted(path)}
    for path in deleted:
        del now.files[path]
    needed = {_content(Path(path), now) for path in now.files}
    now.embeddings = {key: row for key, row in now.embeddings.items() if key in needed}
    now.unusable = {key: why for key, why in now.unusable.items() if key in needed}
    return deleted


def _is_deleted(path: str) -> bool:
    """Return whether a file no longer exists; one in a folder that cannot be read may still do."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - for a text
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
