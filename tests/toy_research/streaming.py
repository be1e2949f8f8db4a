"""Tones that lie in stretches and are read forward, and of which some cannot be read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from toy_research.signals import Tone, Tones


class TonesInStretches(Tones):
    """Tones in stretches of `stretch`, put in a random order; what is in a stretch stays in its order.

    Args:
        gone: positions, in the split, of those that cannot be read.
    """

    def __init__(self, *, lanes: int = 4, stretch: int = 3, gone: Sequence[int] = (), **options: Any) -> None:
        super().__init__(**options)
        self.lanes, self._stretch, self._gone = lanes, stretch, set(gone)
        self.read: list[list[int]] = []

    def __getitem__(self, position: int) -> Tone:
        if position in self._gone:
            raise OSError(f"{position} is cut off")
        return super().__getitem__(position)

    def epoch_order(self, key: int | None) -> np.ndarray[Any, Any]:
        everything = torch.arange(len(self))
        if key is not None:
            stretches = everything.split(self._stretch)
            order = torch.randperm(len(stretches), generator=torch.Generator().manual_seed(key))
            everything = torch.cat([stretches[number] for number in order])
        return everything.numpy()

    def stream(self, indices: Sequence[int]) -> Iterator[Callable[[], Tone]]:
        read: list[int] = []
        self.read.append(read)
        for index in map(int, indices):
            read.append(index)
            yield functools.partial(self.__getitem__, index)
