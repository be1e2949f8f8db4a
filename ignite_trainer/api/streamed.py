"""Interface for data sets whose files contain many samples each and are read sequentially."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Read = Callable[[], Any]
"""Function that reads one sample, or raises an OSError or ValueError (see `ignite_trainer.data.samples`)."""

Indices: TypeAlias = Sequence[int] | NDArray[np.int64]


@runtime_checkable
class Streamed(Protocol):
    """A data set stored in files of many samples each, which are read sequentially.

    `__getitem__` returns single samples for checks, and may be slow. A sample's index determines its random
    numbers, and identifies the sample in predictions.

    Attributes:
        lanes: number of positions in the epoch's order at which a process reads concurrently.
    """

    lanes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def epoch_order(self, key: int | None) -> Indices:
        """Return all indices, in an order that is fast to read and the same in all processes.

        Args:
            key: seed of the shuffle; None for file order.
        """

    def stream(self, indices: Indices) -> Iterator[Read]:
        """Yield a reader for each sample.

        A sample is decoded when its reader is called. If that fails, the other samples can still be read.

        Args:
            indices: part of an order that `epoch_order` returned.
        """
