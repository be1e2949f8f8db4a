"""Folders that are made once and used whole: never half-written, never by two processes at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock


def make_once(folder: Path, *, is_complete: Callable[[Path], bool], fill: Callable[[Path], None]) -> None:
    """Make a folder unless it is complete.

    It is filled under the name `<folder>.partial` and renamed when full. Of several processes that ask at the
    same time one fills it and the others wait, by the lock `<folder>.lock`.

    Args:
        folder: what to make; if it is there and yet not complete, `fill` has to take it away.
        is_complete: tells, quickly, whether it is there and can be used.
        fill: writes the content into the empty folder it is given; flushes what must survive a crash.

    Raises:
        OSError: the folder cannot be written; and whatever `fill` raises.
    """
    if is_complete(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if is_complete(folder):
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def flush(file: BinaryIO) -> None:
    """Bring what was written to a file onto the disk."""
    file.flush()
    os.fsync(file.fileno())
