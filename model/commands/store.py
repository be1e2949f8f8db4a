"""Keeps the embeddings of files between commands.

```text
manifest.json             the model; each file's size, modification time and sha256; the content of each row
embeddings-<random>.npy   float32 [N, D]
```

The manifest names the array and is replaced last, so a killed process leaves the old pair or the new pair.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..storage.atomic import whole_file
from ..weights.fetch import hash_of

Embedding: TypeAlias = NDArray[np.float32]

MANIFEST = "manifest.json"

_FORMAT = 4
_REPLACEABLE = re.compile(r"embeddings-\w{16}\.npy(\.\w{8}\.part)?|manifest\.json\.\w{8}\.part")


class FileRecord(NamedTuple):
    """Size, modification time and hash of a file when it was read."""

    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, known: FileRecord | None = None) -> FileRecord:
        """Describe a file; reads it only if `known` is not up to date.

        Raises:
            OSError: The file cannot be read, or is not a regular file.
        """
        if known is not None and known.is_of(path):
            return known
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return cls(status.st_size, status.st_mtime_ns, hash_of(path))

    def is_of(self, path: Path) -> bool:
        """Return whether a file still has this size and modification time, and is not gone."""
        try:
            status = path.stat()
        except OSError:
            return False
        return self[:2] == (status.st_size, status.st_mtime_ns)


@dataclass
class Stored:
    """The contents of a store.

    Attributes:
        model: the model that computed the embeddings, as JSON types.
        weights: weights files, by path.
        files: indexed files, by path.
        embeddings: embeddings `[D]`, by content: "audio:<sha256>" or "image:<sha256>".
        unusable: reason why a content cannot be embedded, by content.
        decoders: versions of the libraries that found contents unusable.
    """

    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, FileRecord] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    embeddings: dict[str, Embedding] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    decoders: str = ""

    def knows(self, content: str) -> bool:
        """Return whether a content is embedded or known to be unusable."""
        return content in self.embeddings or content in self.unusable

    def add(self, other: Stored) -> None:
        """Add what another store of the same model has."""
        self.weights |= other.weights
        self.files |= other.files
        self.embeddings |= other.embeddings
        self.unusable |= other.unusable

    def facts(self) -> dict[str, Any]:
        """Return everything but the rows, which the model and the contents determine."""
        return {
            "model": self.model,
            "weights": self.weights,
            "files": self.files,
            "unusable": self.unusable,
            "decoders": self.decoders,
            "contents": [*self.embeddings],
        }


def read_store(folder: Path) -> Stored:
    """Read a store, which is only a cache: a missing, damaged or differently formatted store is empty."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        with (folder / content["embeddings"]).open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)
        if content["format"] != _FORMAT or rows.dtype != np.float32:
            return Stored()
        return Stored(
            model=content["model"],
            weights={path: FileRecord(*record) for path, record in content["weights"].items()},
            files={path: FileRecord(*record) for path, record in content["files"].items()},
            embeddings=dict(zip(content["contents"], rows, strict=True)),
            unusable=content["unusable"],
            decoders=content["decoders"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Stored()


def write_store(folder: Path, stored: Stored) -> None:
    """Replace the contents of a store atomically."""
    rows = np.stack([*stored.embeddings.values()]) if stored.embeddings else np.empty((0, 0), np.float32)
    name = f"embeddings-{secrets.token_hex(8)}.npy"
    with whole_file(folder / name) as file:
        np.save(file, rows)
    content = {**stored.facts(), "format": _FORMAT, "embeddings": name}
    with whole_file(folder / MANIFEST) as file:
        file.write(json.dumps(content).encode("ascii"))
    for old in folder.iterdir():  # also parts of a killed process
        if old.name != name and _REPLACEABLE.fullmatch(old.name):
            old.unlink()
