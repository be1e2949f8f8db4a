"""The interface of data sets whose files hold many samples each and are read from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Read = Callable[[], Any]
"""Reads one sample, or raises an OSError or a ValueError (see `ignite_trainer.data.samples`)."""

Indices: TypeAlias = Sequence[int] | NDArray[np.int64]


@runtime_checkable
class Streamed(Protocol):
    """A data set in files of many samples, which are read sequentially.

    `__getitem__` returns single samples for checks, and may be slow. The index of a sample determines its
    random numbers, and identifies it in predictions.

    Attributes:
        lanes: number of positions in the order at which a process reads concurrently.
    """

    lanes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def epoch_order(self, key: int | None) -> Indices:
        """Return all indices in an order that is fast to read, shuffled by `key`; None for file order.

        The order must be the same in all processes.
        """

    def stream(self, indices: Indices) -> Iterator[Read]:
        """Yield a reader for each of these samples, a part of an order.

        A sample is decoded when its reader is called; if that fails, the others can still be read.
        """
