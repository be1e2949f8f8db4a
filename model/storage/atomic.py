"""Atomic creation of folders and files, which are never half-written."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock


def make_once(folder: Path, *, is_complete: Callable[[Path], bool], fill: Callable[[Path], None]) -> None:
    """Create a folder unless it is complete.

    The folder is filled under the name `<folder>.partial` and then renamed. If several processes need it, one
    fills it while the others wait for the lock `<folder>.lock`.

    Args:
        folder: folder to create; `fill` must remove an incomplete folder of this name.
        is_complete: function that quickly tells whether the folder exists and is usable.
        fill: function that writes the content into the given empty folder, and flushes everything that must
            survive a crash.

    Raises:
        OSError: The folder cannot be written. Exceptions of `fill` are passed on.
    """
    if is_complete(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if is_complete(folder):
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left behind by a killed process
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write `<path>.<random>.part`, sync it to disk, and rename it; of several writers, the last one wins.

    A failure leaves nothing, except that a killed process leaves its part. If `path` is a link, the file that
    it points to is replaced.

    Raises:
        OSError: The file cannot be written; the error names it.
    """
    path = path.resolve()
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            yield file
            flush(file)
        part.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:  # numpy's
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def flush(file: BinaryIO) -> None:
    """Flush a file's buffers to disk."""
    file.flush()
    os.fsync(file.fileno())
