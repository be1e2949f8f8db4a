"""Files that are written whole or not at all, and what is said where that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ignite_trainer.errors import RunFailed

_OF_TORCH = ("PytorchStreamWriter", "inline_container", "iostream")  # torch.save raises a RuntimeError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name to write under, and rename it to `path` once all is written.

    Where that fails nothing is left of it, and what was at `path` before is still there.

    Raises:
        RunFailed: it cannot be written, because the disk is full, say.
    """
    part = path.with_name(path.name + ".part")
    with writing(path):
        try:
            yield part
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what says that a file cannot be written into a RunFailed that names it."""
    try:
        yield
    except Exception as error:
        if _cannot_write(error):
            raise failed_writing(path, error) from error
        raise


def append(file: BinaryIO, line: bytes, *, path: Path) -> None:
    """Append to an unbuffered file; where there is no room for all of it, leave the file as it was.

    Raises:
        RunFailed: it cannot be written.
    """
    before = os.fstat(file.fileno()).st_size
    rest = memoryview(line)
    try:
        while rest:  # where room is left for a part, that much is written, without an error
            rest = rest[file.write(rest) :]
    except OSError as error:
        with contextlib.suppress(OSError):
            file.truncate(before)
        raise failed_writing(path, error) from error


def failed_writing(path: Path, error: BaseException) -> RunFailed:
    """Say what could not be written, and where, what is kept, and how to go on."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return RunFailed(
        f"{path} cannot be written ({reason}). What was finished before is kept. Make room on that disk, "
        "and give the same command with --resume; or name a folder on another disk with -M."
    )


def _cannot_write(error: BaseException) -> bool:
    return isinstance(error, OSError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_TORCH)
    )
