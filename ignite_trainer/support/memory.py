"""Memory: keeps what a step frees for the next one, tells its peak, and recognises out-of-memory errors.

On a CPU a step allocates and frees the same hundreds of megabytes again and again. The C library gives large
pieces back to the system at once; to get them anew costs a page fault and 4 KiB of zeros for every page.
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
# Numbers of parameters, in glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# Where torch raises a plain RuntimeError; the last where every cuDNN engine needs more than is free.
_SAID = (
    *("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED"),
    "unable to find an engine",
)
# Nothing is mapped apart, and nothing is given back.
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
# What glibc comes to by itself once large pieces were freed; after it was told, it does not adapt anymore.
_GIVING_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))


@contextlib.contextmanager
def freed_memory(*, kept: bool) -> Iterator[None]:
    """Say for a block, and all threads, whether the process keeps the host memory that is freed in it.

    Where it is no longer kept, what is free goes back to the system. Nothing happens where the C library is
    not glibc, or the environment variables MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ say what to do. Blocks
    can be nested.
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
    """Whether an error says that memory, of the host or of a device, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _SAID)


def peak_resident_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None if the system does not tell."""
    # Not from getrusage, which begins with the memory of the process that started this one.
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
