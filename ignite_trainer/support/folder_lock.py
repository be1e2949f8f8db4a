"""Lock of a folder of results, for one process at a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import whole_file

# Loader processes inherit the lock of older versions of filelock, and outlive a killed run by seconds.
_PATIENCE_SECONDS = 10.0


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
            f"{folder} is in use by {_read(holder)}: two processes would overwrite each other's results. "
            "Wait until it ends, or end it."
        ) from None
    try:
        with whole_file(holder) as part:
            part.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
