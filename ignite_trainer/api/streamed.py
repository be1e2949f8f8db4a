"""The contract of data sets whose files hold many samples each and are read from beginning to end."""

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
    """A data set in files of many samples, which are best read from their beginning to their end.

    `__getitem__` gives single samples too, for a look at some of them; it may be slow. A sample is known by
    its index, which decides its randomness and is what predictions name; an order is of indices.

    Attributes:
        lanes: places of the order at which a process reads side by side.
    """

    lanes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def epoch_order(self, key: int | None) -> Indices:
        """Put all indices in an order in which they can be read fast, drawn by `key`; None: as they lie.

        It is computed in every process, and has to be the same in all.
        """

    def stream(self, indices: Indices) -> Iterator[Read]:
        """Give what reads each of these samples, a stretch of an order, in their order.

        Nothing is decoded until it is called, and one that raises does not end the others.
        """
