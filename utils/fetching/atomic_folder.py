"""Creates folders atomically: never half-written, never by two processes at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock


def make_once(folder: Path, *, is_complete: Callable[[Path], bool], fill: Callable[[Path], None]) -> None:
    """Create a folder unless it is complete.

    It is filled under the name `<folder>.partial` and then renamed. Of several processes, one fills it and
    the others wait for the lock `<folder>.lock`.

    Args:
        folder: the folder; `fill` has to remove an incomplete one.
        is_complete: returns, quickly, whether the folder exists and is usable.
        fill: writes the content into the empty folder it is given, and flushes what must survive a crash.

    Raises:
        OSError: the folder cannot be written; or whatever `fill` raises.
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
    """Write the buffers of a file to the disk."""
    file.flush()
    os.fsync(file.fileno())
