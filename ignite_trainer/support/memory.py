"""Host memory: reuse between steps, peak usage, and out-of-memory errors.

On a CPU, every step allocates and frees the same hundreds of megabytes. The C library returns large blocks
to the system immediately. Allocating them again costs a page fault and writing 4 KiB of zeros for every page.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import torch

_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
# Parameters of mallopt, from glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# Messages of torch's plain RuntimeErrors. The last one means that no cuDNN engine had enough memory.
_MESSAGES = (
    *("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED"),
    "unable to find an engine",
)
# Do not map blocks separately, and do not return memory.
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
# Values that glibc adopts after large blocks are freed. It no longer adapts them once they are set.
_GIVING_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))


@contextlib.contextmanager
def freed_memory(*, kept: bool) -> Iterator[None]:
    """Keep freed host memory in the process inside a `with` block if `kept`, or return it to the system.

    This applies to all threads. Blocks can be nested. Does nothing without glibc, or if the environment
    variable MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ is set.
    """
    library, outer = _glibc(), _keeping.get()
    if library is None or kept == outer:
        yield
        return
    token = _keeping.set(kept)
    _apply(library, keep=kept)
    try:
        yield
    finally:
        _keeping.reset(token)
        _apply(library, keep=outer)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the host or a device was out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def peak_resident_bytes() -> int | None:
    """Return the peak resident memory of this process, or None if the system does not report it."""
    # getrusage would also count the memory of the process that started this one.
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


_keeping: ContextVar[bool] = ContextVar("keeping freed memory", default=False)


def _apply(library: ctypes.CDLL, *, keep: bool) -> None:
    for parameter, value in _KEEPING if keep else _GIVING_BACK:
        library.mallopt(parameter, value)
    if not keep:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return None
    library = ctypes.CDLL(None)
    needed = ("mallopt", "malloc_trim", "gnu_get_libc_version")
    return library if all(hasattr(library, name) for name in needed) else None
