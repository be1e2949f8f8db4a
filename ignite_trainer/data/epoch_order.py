"""The order of an epoch, and which part of each batch is whose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.support.distributed import rank, world_size


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch, of each the part of this process: a list of (epoch, index).

    ```text
    order      |----- batch 1 -----|----- batch 2 -----|-- 3 --|
    processes  | rank 0  | rank 1  | rank 0  | rank 1  | 0 | 1 |
    ```

    Batches are those of all processes together, and their parts differ by one sample at most.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
    ) -> None:
        """Order `count` samples.

        `batch_size` is that of all processes; `drop_last` leaves out an incomplete last batch.
        """
        self._count, self._batch_size, self._shuffle, self._seed = count, batch_size, shuffle, seed
        self._used = count - count % batch_size if drop_last else count
        self.epoch, self.start = 0, 0

    def _part(self, start: int, rank: int) -> tuple[int, int]:
        """Where in the order the part of a process begins and ends, of the batch that begins at `start`."""
        size, ranks = min(self._batch_size, self._used - start), world_size()
        return start + size * rank // ranks, start + size * (rank + 1) // ranks

    def _sizes(self, rank: int) -> list[int]:
        parts = [self._part(start, rank) for start in range(0, self._used, self._batch_size)]
        return [stop - start for start, stop in parts]

    @property
    def first(self) -> int:
        """Number of samples of the processes before this one in an epoch."""
        return sum(sum(self._sizes(before)) for before in range(rank()))

    def __len__(self) -> int:
        return math.ceil(self._used / self._batch_size)

    @property
    def sizes(self) -> list[int]:
        """Of the batches of this process."""
        return self._sizes(rank())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self._count))
        if self._shuffle:
            key = order_key(seed=self._seed, epoch=self.epoch)
            order = torch.randperm(self._count, generator=torch.Generator().manual_seed(key)).tolist()
        size = self._batch_size
        for begin in range(self.start * size, self._used, size):
            start, stop = self._part(begin, rank())
            yield [(self.epoch, index) for index in order[start:stop]]


def order_key(*, seed: int, epoch: int) -> int:
    """Draw what an epoch's order is drawn by: it is random as a sample is, that of no index."""
    [key] = SampleRandom.of(seed=seed, epoch=epoch, indices=[-1]).seeds()
    return key
