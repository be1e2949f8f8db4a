"""Atomic file writes, checksums and folder locks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from filelock import FileLock, Timeout

from ignite_trainer.support.errors import ProtocolError, RunFailed

_TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream")  # torch.save raises a RuntimeError
_CHUNK_BYTES = 2**20
# With older versions of filelock, data-loading workers inherit the lock, and outlive a killed run by seconds.
_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename the file written there to `path` on success.

    On failure, remove the temporary file and keep any older file at `path`.

    Raises:
        RunFailed: The file cannot be written, for example because the disk is full.
    """
    with _explaining(path), _replacing(path) as part:
        yield part


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raise a RunFailed if it cannot be written."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_durably(path: Path, write: Callable[[IO[bytes]], Any]) -> str:
    """Write a file that survives a crash, and its checksum in `<name>.sha256`, which sha256sum can read.

    Any old file at `path` stays until the new file is on disk and has been read back.

    Returns:
        The sha256 of the file, in hexadecimal digits.

    Raises:
        RunFailed: The file cannot be written, or its content differs when it is read back.
    """
    with _explaining(path):
        with _replacing(path) as part:
            with _HashingFile(part) as file:
                write(file)
                _sync(file)
            sha256 = file.digest.hexdigest()
            if sha256_of(part) != sha256:
                raise OSError(f"{part} reads differently from what was written; the disk may be failing")
            line = f"{sha256}  {path.name}\n".encode()
            old_lines = _checksum_lines(path) if path.exists() else b""
            # List both checksums until the file is replaced, so that either file is intact after a crash.
            _write_checksum(path, line + old_lines)
        _sync_folder(path.parent)
        if old_lines:
            with contextlib.suppress(OSError):  # an outdated line does no harm
                _write_checksum(path, line)
    return sha256


def append(file: BinaryIO, line: bytes, *, path: Path) -> None:
    """Append a line to an unbuffered file, or leave the file unchanged if the whole line does not fit.

    Raises:
        RunFailed: The line cannot be written.
    """
    size_before = os.fstat(file.fileno()).st_size
    rest = memoryview(line)
    try:
        while rest:  # a nearly full disk may take only part of it, without an error
            rest = rest[file.write(rest) :]
    except OSError as error:
        with contextlib.suppress(OSError):
            file.truncate(size_before)
        raise failed_writing(path, error) from error


def is_intact(path: Path, sha256: str | None = None) -> bool:
    """Return whether a file has the expected hash, by default the one that `write_durably` wrote.

    A file without a hash is not intact.
    """
    try:
        actual = sha256_of(path)
        if sha256:
            return actual == sha256
        return f"{actual}  {path.name}".encode() in _checksum_lines(path).splitlines()
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file and its checksum, if they exist."""
    path.unlink(missing_ok=True)
    checksum_of(path).unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove leftovers of a crash from a folder: partly written files, and checksums without a file."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)
    for checksum in folder.glob("*.sha256"):
        if not checksum.with_suffix("").exists():
            checksum.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path, *, name: str) -> Iterator[None]:
    """Hold `<name>.lock` in an existing folder; `<name>.holder` names the process and its machine.

    Raises:
        ProtocolError: Another process holds the lock.
    """
    holder, lock = folder / f"{name}.holder", FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise ProtocolError(
            f"{folder} is in use by {_holder_in(holder)}: two processes would overwrite each other's "
            "results. Wait until it ends, or end it."
        ) from None
    try:
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def checksum_of(path: Path) -> Path:
    """Return the path of a file's checksum."""
    return path.with_name(path.name + ".sha256")


def failed_writing(path: Path, error: BaseException) -> RunFailed:
    """Build the error for a file that cannot be written, which says what is kept and how to resume."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return RunFailed(
        f"{path} cannot be written ({reason}). Everything written before is kept. Free space on that "
        "disk and repeat the command with --resume, or choose a folder on another disk with -M."
    )


def _holder_in(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn errors in writing a file into a RunFailed that names the file."""
    try:
        yield
    except OSError as error:
        raise failed_writing(path, error) from error
    except RuntimeError as error:
        if any(word in str(error) for word in _TORCH_WRITER):
            raise failed_writing(path, error) from error
        raise


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


class _HashingFile(io.BufferedWriter):
    """A new binary file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return super().write(content)


def _write_checksum(path: Path, lines: bytes) -> None:
    with _replacing(checksum_of(path)) as part, part.open("wb") as file:
        file.write(lines)
        _sync(file)
    _sync_folder(path.parent)


def _checksum_lines(path: Path) -> bytes:
    """Read the checksum file of `path`; return b"" if it does not exist."""
    try:
        return checksum_of(path).read_bytes()
    except FileNotFoundError:
        return b""


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Write new file names to disk, if the system can synchronise folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
