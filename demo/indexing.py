"""Embed all sounds and images of a folder once, keep the embeddings, and rank them.

```text
manifest.json              the model; each file's size, modification time and sha256; the content of each row
embeddings-<digest>.npy    float32 [N, D]
```

The manifest names the array and is replaced last, so a killed process leaves the old pair or the new pair.

A ranking is one product of all embeddings with the query, limited by memory bandwidth: a quarter of a second
for 200,000 embeddings of 1,024 values on one CPU core. An approximate index (FAISS) would save no noticeable
time below a million files, and would not be exact.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from demo.weights import Weights
from ignite_trainer.support.files import sha256_of
from ignite_trainer.support.progress import Progress
from model.audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from model.audioclip import AudioCLIP
from model.clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES
from model.storage.atomic import whole_file
from model.storage.places import default_cache_folder
from model.storage.walking import files_below
from model.zero_shot import KINDS, SUFFIXES, Kind, label_probabilities
from utils.datasets.sources.cells import is_plain

Embedding: TypeAlias = NDArray[np.float32]

GROUP: dict[Kind, int] = {"audio": 8, "image": 32}  # files per embedding batch
SAVE_EVERY_SECONDS = 60.0
MANIFEST = "manifest.json"

_FORMAT = 2
_UNDECODED = {
    **dict.fromkeys(sorted(UNDECODED_AUDIO_SUFFIXES), CONVERT_AUDIO),
    **dict.fromkeys(sorted(UNDECODED_IMAGE_SUFFIXES), CONVERT_IMAGE),
}


class Match(NamedTuple):
    """One line of a ranking."""

    path: str
    """Path relative to the folder, with forward slashes."""
    similarity: float
    """Cosine similarity of the embeddings, -1 to 1."""


class Update(NamedTuple):
    """File counts of an index update.

    Attributes:
        found: number of sounds and images in the folder.
        embedded: number of newly embedded files.
        removed: number of files that no longer exist.
        wrong: reason why a file is unusable, by path.
    """

    found: int
    embedded: int
    removed: int
    wrong: dict[str, str]


class FileRecord(NamedTuple):
    """Size, modification time and hash of a file when it was read."""

    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, known: FileRecord | None = None) -> FileRecord:
        """Describe a file; reads it only if its size or modification time differs from `known`."""
        status = path.stat()
        if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
            return known
        return cls(status.st_size, status.st_mtime_ns, sha256_of(path))


@dataclass
class Stored:
    """The contents of a store.

    Attributes:
        model: the model that computed the embeddings, as JSON types.
        weights: weights files, by path.
        files: indexed files, by path.
        embeddings: embeddings `[D]`, by content: "audio:<sha256>" or "image:<sha256>".
        unusable: reason why a content cannot be embedded, by content.
    """

    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, FileRecord] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    embeddings: dict[str, Embedding] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)


class FolderIndex:
    """The embeddings of the sounds and images of a folder.

    Files are identified by content: a renamed, copied or touched file is not embedded again.

    Args:
        folder: folder to search, with its subfolders; symbolic links are followed, hidden folders skipped.
        weights: weights of the embedding model.
        store: folder for the embeddings; None for a subfolder of the cache folder.

    Raises:
        NotADirectoryError: The folder does not exist.
    """

    def __init__(self, folder: str | Path, weights: Weights, *, store: Path | None = None) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self.weights = weights
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder.")
        key = hashlib.sha256(os.fsencode(f"{self.folder}\0{weights.source}")).hexdigest()[:16]
        self.store = store or default_cache_folder() / f"index-{key}"
        self._paths: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
        self._rows: dict[Kind, Embedding] = {}

    def update(self, load: Callable[[], AudioCLIP]) -> Update:
        """Embed new files and drop deleted files; finished embeddings are kept if interrupted.

        `load` is called only if there is something to embed.

        Raises:
            OSError: The embeddings cannot be written.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store / "lock"):
            before = read_store(self.store)
            weights = {str(p): FileRecord.of(p, before.weights.get(str(p))) for p in self.weights.files}
            hashes = [file.sha256 for file in weights.values()]
            now = Stored(model={**self.weights.description, "sha256": hashes}, weights=weights)
            contents, wrong = self._scan(before, now)
            needed = set(contents.values())
            if now.model == before.model:
                now.embeddings = {key: row for key, row in before.embeddings.items() if key in needed}
                now.unusable = {key: why for key, why in before.unusable.items() if key in needed}
            done = {*now.embeddings, *now.unusable}
            todo = {key: path for path, key in contents.items() if key not in done}
            if todo or _facts(before) != _facts(now):
                self._embed(todo, now, load)
        for kind in KINDS:
            keys = {path: key for path, key in contents.items() if key.startswith(f"{kind}:")}
            self._paths[kind] = [path for path, key in keys.items() if key in now.embeddings]
            if self._paths[kind]:
                self._rows[kind] = np.stack([now.embeddings[keys[path]] for path in self._paths[kind]])
        return Update(
            found=len(contents) + len(wrong),
            embedded=sum(key in now.embeddings for key in todo),
            removed=len(before.files.keys() - now.files.keys()),
            wrong=wrong | {path: now.unusable[key] for path, key in contents.items() if key in now.unusable},
        )

    def paths(self, kind: Kind) -> Sequence[str]:
        """Return the indexed files of a kind, relative to the folder."""
        return self._paths[kind]

    def rank(self, query: Embedding, kind: Kind, count: int = 10) -> list[Match]:
        """Return the files of a kind that are nearest to a unit-norm embedding `[D]`, best first."""
        if not self._paths[kind]:
            return []
        similarities = self._rows[kind] @ query
        best = np.argsort(-similarities, kind="stable")[:count]
        return [Match(self._paths[kind][place], float(similarities[place])) for place in best]

    def embedding(self, path: str) -> Embedding | None:
        """Return the embedding `[D]` of a file, or None if it is not in the index."""
        kind = SUFFIXES.get(Path(path).suffix.lower())
        if kind is None or path not in self._paths[kind]:
            return None
        row: Embedding = self._rows[kind][self._paths[kind].index(path)]
        return row

    def _scan(self, before: Stored, now: Stored) -> tuple[dict[str, str], dict[str, str]]:
        """Return the contents of the readable files and the reasons for the unreadable ones, both by path."""
        contents, wrong = dict[str, str](), dict[str, str]()

        def unreadable(path: str, error: OSError) -> None:
            wrong[path] = f"cannot be read ({error.strerror})"

        for parent, name in files_below(self.folder, on_error=unreadable):
            path, suffix = f"{parent}{name}", Path(name).suffix.lower()
            if suffix not in SUFFIXES:
                continue
            if suffix in _UNDECODED:  # videos can be large: do not hash them
                wrong[path] = f"{suffix[1:]} is not decoded: {_UNDECODED[suffix]}"
            elif not is_plain(path):
                wrong[path] = "its name cannot be printed"
            else:
                try:
                    now.files[path] = FileRecord.of(self.folder / path, before.files.get(path))
                    contents[path] = f"{SUFFIXES[suffix]}:{now.files[path].sha256}"
                except OSError as error:
                    unreadable(path, error)
        return contents, wrong

    def _embed(self, todo: Mapping[str, str], now: Stored, load: Callable[[], AudioCLIP]) -> None:
        """Embed files, keyed by content, and store the results, even if interrupted."""
        model = load() if todo else None  # if this fails, the store stays unchanged
        saved = time.monotonic()
        try:
            with Progress(desc="Embedding", total=len(todo), unit="files") as bar:
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


def embed_files(model: AudioCLIP, kind: Kind, paths: Sequence[Path]) -> list[Embedding | str]:
    """Embed files of one kind as a batch; return each file's embedding `[D]`, or the error message."""
    embed = model.embed_audio if kind == "audio" else model.embed_image
    try:
        return [*embed(paths).cpu().numpy()]
    except (ValueError, OSError) as error:
        if len(paths) == 1:
            return [str(error).removeprefix(f"{paths[0]}: ")]
    # One of the files is unusable, so embed each alone; embeddings do not depend on each other.
    return [result for path in paths for result in embed_files(model, kind, [path])]


def rank_labels(
    model: AudioCLIP, kind: Kind, embedding: Embedding, labels: Sequence[str], texts: Tensor
) -> list[tuple[str, float]]:
    """Return K labels with their probabilities, most probable first.

    Takes a file's embedding `[D]` and those of the labels, `texts` `[K, D]`.
    """
    features = torch.from_numpy(embedding[None].copy()).to(texts.device)
    probabilities = label_probabilities(model, kind, features, texts)[0].tolist()
    return sorted(zip(labels, probabilities, strict=True), key=lambda pair: -pair[1])


def read_store(folder: Path) -> Stored:
    """Read a store, which is only a cache: a missing, damaged or differently formatted store is empty."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        rows = np.load(folder / content["embeddings"], allow_pickle=False)
        if content["format"] != _FORMAT or rows.dtype != np.float32:
            return Stored()
        return Stored(
            model=content["model"],
            weights={path: FileRecord(*record) for path, record in content["weights"].items()},
            files={path: FileRecord(*record) for path, record in content["files"].items()},
            embeddings=dict(zip(content["contents"], rows, strict=True)),
            unusable=content["unusable"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Stored()


def write_store(folder: Path, stored: Stored) -> None:
    """Replace the contents of a store atomically."""
    rows = np.stack([*stored.embeddings.values()]) if stored.embeddings else np.empty((0, 0), np.float32)
    name = f"embeddings-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npy"
    with whole_file(folder / name) as file:
        np.save(file, rows)
    content = {**_facts(stored), "format": _FORMAT, "embeddings": name}
    with whole_file(folder / MANIFEST) as file:
        file.write(json.dumps(content).encode("ascii"))
    for old in folder.glob("embeddings-*.npy"):
        if old.name != name:
            old.unlink()


def _facts(stored: Stored) -> dict[str, Any]:
    """Return everything but the rows, which the model and the contents determine."""
    return {
        "model": stored.model,
        "weights": stored.weights,
        "files": stored.files,
        "unusable": stored.unusable,
        "contents": [*stored.embeddings],
    }


def _groups(todo: Mapping[str, str]) -> Iterator[tuple[Kind, list[str]]]:
    for kind in KINDS:
        keys = [key for key in todo if key.startswith(f"{kind}:")]
        for begin in range(0, len(keys), GROUP[kind]):
            yield kind, keys[begin : begin + GROUP[kind]]
