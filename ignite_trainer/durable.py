"""Files that are whole or not there: written beside their place, checked as they lie on disk, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CHUNK = 2**20


def write_durably(path: Path, write: Callable[[IO[bytes]], Any]) -> str:
    """Write a file, and beside it `<name>.sha256`, as the command sha256sum writes and checks it.

    Until the new file is on disk and reads as it was written, what was at `path` stays.

    Args:
        path: where the file will be.
        write: gives its content to a binary file.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: it cannot be written, or reads otherwise; nothing of it is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            hashing = _Hashing(file)
            write(hashing)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        written = hashing.digest.hexdigest()
        if _sha256(part) != written:
            raise OSError(f"{part} does not read as it was written; the disk may be failing")
        line = f"{written}  {path.name}\n".encode()
        before = _noted(path) if path.exists() else b""
        # Until the file is replaced, both checksums are noted: whichever file a crash leaves is intact.
        _note(path, line + before)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    if before:
        with contextlib.suppress(OSError):  # a line too many does no harm
            _note(path, line)
    return written


def is_intact(path: Path, sha256: str | None = None) -> bool:
    """Return whether a file is byte for byte what `write_durably` wrote.

    Args:
        path: the file.
        sha256: expected hash. None: the one in the checksum file; without that file nothing is intact.
    """
    try:
        found = _sha256(path)
        return (
            found == sha256
            if sha256
            else f"{found}  {path.name}\n".encode() in _noted(path).splitlines(keepends=True)
        )
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file and its checksum, if they are there."""
    path.unlink(missing_ok=True)
    checksum_of(path).unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Remove what a crash may leave in a folder: files half written, checksums of files not there."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)
    for checksum in folder.glob("*.sha256"):
        if not checksum.with_suffix("").exists():
            checksum.unlink(missing_ok=True)


def checksum_of(path: Path) -> Path:
    """Where the checksum of a file lies."""
    return path.with_name(path.name + ".sha256")


def _note(path: Path, content: bytes) -> None:
    """Have the checksums of a file on disk, or those that were."""
    checksum = checksum_of(path)
    part = checksum.with_name(checksum.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(checksum)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _noted(path: Path) -> bytes:
    """The checksums noted of a file; none if there is no note."""
    try:
        return checksum_of(path).read_bytes()
    except FileNotFoundError:
        return b""


class _Hashing:
    """A binary file that hashes what passes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk too, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
