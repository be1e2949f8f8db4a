"""Embeddings by the content of files, and what is known of the files, on disk: one array and a manifest.

```text
manifest.json              model; files: size, time of change and sha256 by path; contents: rows of the array
embeddings-<digest>.npy    float32 [N, D]
```

The manifest names the array, and is replaced last: a process that is killed leaves the old pair or the new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MANIFEST = "manifest.json"

_FORMAT = 2


class FileRecord(NamedTuple):
    """A file as it was when its content was read."""

    size_bytes: int
    mtime_ns: int
    sha256: str


def record_file(path: Path, known: FileRecord | None = None) -> FileRecord:
    """Describe a file; it is read only where size or time of change are not those `known`.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
        return known
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return FileRecord(status.st_size, status.st_mtime_ns, digest.hexdigest())


@dataclass
class Stored:
    """What a store holds.

    Attributes:
        model: what the embeddings were computed with, as JSON types.
        weights: files of the weights, by path.
        files: files that are embedded, by path.
        embeddings: `[D]` by content: "audio:<sha256>" or "image:<sha256>".
        unusable: likewise, why content cannot be embedded.
    """

    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, FileRecord] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)


def read_store(folder: Path) -> Stored:
    """Read a store; one that is absent, damaged or of another format is as an empty one, being a cache."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        if manifest["format"] != _FORMAT:
            return Stored()
        rows = np.load(folder / manifest["embeddings"], allow_pickle=False)
        if rows.dtype != np.float32 or len(rows) != len(manifest["contents"]):
            return Stored()
        return Stored(
            model=manifest["model"],
            weights=_records(manifest["weights"]),
            files=_records(manifest["files"]),
            embeddings=dict(zip(manifest["contents"], rows, strict=True)),
            unusable=manifest["unusable"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Stored()


def write_store(folder: Path, stored: Stored) -> None:
    """Replace what a store holds, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.stack([*stored.embeddings.values()]) if stored.embeddings else np.empty((0, 0), np.float32)
    name = f"embeddings-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npy"
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        np.save(file, rows)
    part.replace(folder / name)
    content: Mapping[str, Any] = {
        "format": _FORMAT,
        "model": stored.model,
        "embeddings": name,
        "contents": [*stored.embeddings],
        "unusable": stored.unusable,
        "weights": stored.weights,
        "files": stored.files,
    }
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(content), encoding="ascii")
    part.replace(folder / MANIFEST)
    for old in folder.glob("embeddings-*.npy"):
        if old.name != name:
            old.unlink()


def _records(listed: Mapping[str, Sequence[Any]]) -> dict[str, FileRecord]:
    return {path: FileRecord(*record) for path, record in listed.items()}
