"""The order of an epoch, its division into batches, and batches read from streamed data sets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ignite_trainer.api import streamed
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.streamed import Indices, Streamed
from ignite_trainer.data.samples import (
    LoadedBatch,
    Reference,
    TransformedSamples,
    Unreadable,
    collate_read,
)
from ignite_trainer.data.sampling import BalancedSampling, repetitions
from ignite_trainer.support.distributed import rank, world_size
from ignite_trainer.support.errors import ProtocolError


@dataclass(eq=False, kw_only=True)
class EpochOrder(Sampler[list[Reference]]):
    """This process's part of each batch in an epoch, as lists of references.

    ```text
    order      |----- batch 1 -----|----- batch 2 -----|-- 3 --|
    processes  | rank 0  | rank 1  | rank 0  | rank 1  | 0 | 1 |
    ```

    The parts of a batch differ in size by at most one sample.

    Attributes:
        count: number of samples in an epoch.
        batch_size: global batch size.
        shuffle: whether to shuffle the samples in each epoch.
        drop_last: whether to drop an incomplete last batch.
        seed: seed of the order, combined with the epoch.
        sampling: draws the samples of an epoch; None to take each sample once.
        epoch: epoch of the next pass.
        start: index of the first batch in the next pass.
    """

    count: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int
    sampling: BalancedSampling | None = None
    epoch: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        self._used = self.count - self.count % self.batch_size if self.drop_last else self.count

    def _parts(self, rank: int) -> list[tuple[int, int]]:
        """Return the (start, end) positions of one process's part of each batch in the order."""
        ranks = world_size()
        parts = []
        for start in range(0, self._used, self.batch_size):
            size = min(self.batch_size, self._used - start)
            parts.append((start + size * rank // ranks, start + size * (rank + 1) // ranks))
        return parts

    def sizes(self, rank: int) -> list[int]:
        """Return the size of one process's part of each batch."""
        return [stop - start for start, stop in self._parts(rank)]

    def __len__(self) -> int:
        return math.ceil(self._used / self.batch_size)

    def __iter__(self) -> Iterator[list[Reference]]:
        order, repeated = self.indices(self.epoch), np.zeros(self.count, np.int64)
        if self.sampling:
            repeated = repetitions(order)
        for start, stop in self._parts(rank())[self.start :]:
            pairs = zip(order[start:stop].tolist(), repeated[start:stop].tolist(), strict=True)
            yield [Reference(self.epoch, index, repetition) for index, repetition in pairs]

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples of a whole epoch in order: int64 `[count]`."""
        key = _order_key(seed=self.seed, epoch=epoch)
        if self.sampling:
            return self.sampling.draw(key)
        if not self.shuffle:
            return np.arange(self.count)
        order: NDArray[np.int64] = torch.randperm(
            self.count, generator=torch.Generator().manual_seed(key)
        ).numpy()
        return order


def _order_key(*, seed: int, epoch: int) -> int:
    """Derive the seed of an epoch's order, like the seed of a sample with index -1."""
    [key] = SampleRandom.of(seed=seed, epoch=epoch, indices=[-1]).seeds()
    return key


class BatchPlan:
    """The slice of an epoch's order that each batch of this process covers.

    ```text
    order     |--------- rank 0 ---------|--------- rank 1 ---------| dropped  |
    lanes     |- 0 -----|- 1 ----|- 2 ---|
    batches    0  3  6   1  4  7  2  5
    ```

    A lane is a contiguous piece of this process's slice; batch n comes from lane `n % lanes`. Lanes determine
    which samples a batch contains, but not its size. Each lane is read by a single worker.
    The data set sets the number of lanes, so the batches do not depend on the number of workers.

    Args:
        sizes: sizes of this process's batches, in the order in which they are requested.
        first: position in the epoch's order where this process's slice starts.
        lanes: maximum number of lanes that the slice is cut into.
    """

    def __init__(self, sizes: Sequence[int], *, first: int, lanes: int) -> None:
        self.lanes = lanes
        self.first = first
        self.end = first + sum(sizes)
        by_lane = sorted(range(len(sizes)), key=lambda number: (number % lanes, number))
        starts = accumulate((sizes[number] for number in by_lane), initial=first)
        self._spans = {
            number: (start, start + sizes[number]) for number, start in zip(by_lane, starts, strict=False)
        }
        self._lane_ends = {number % lanes: self._spans[number][1] for number in by_lane}

    def span(self, number: int) -> tuple[int, int]:
        """Return the start and end positions of a batch in the order."""
        return self._spans[number]

    def lane_end(self, number: int) -> int:
        """Return the end position of a batch's lane in the order."""
        return self._lane_ends[number % self.lanes]


def usable_workers(wanted: int, lanes: int) -> int:
    """Return the largest number of workers up to `wanted` that divides the lanes evenly."""
    return max((number for number in range(1, min(wanted, lanes) + 1) if lanes % number == 0), default=0)


class BatchNumbers(Sampler[tuple[int, int]]):
    """The batches of an epoch as (epoch, number), starting from batch number `order.start`."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._order.epoch
        return ((epoch, number) for number in range(self._order.start, len(self._order)))


@dataclass(eq=False)
class StreamedBatches(Dataset[LoadedBatch]):
    """The batches of a streamed data set, indexed by (epoch, number); each worker reads some lanes.

    Each lane continues where its previous batch ended. After a jump, for example when a run resumes within
    an epoch, a lane starts at the requested batch; earlier samples are not read.

    Attributes:
        dataset: streamed data set.
        samples: the same data set with its per-sample transforms.
        plan: slice of the order that each batch covers.
        seed: seed of the order, combined with the epoch.
        shuffle: whether to shuffle the samples in each epoch.
        replace_unreadable: whether to replace a batch without readable samples by other samples of this
            process, first those after the batch, then those before it. All processes then take the same
            number of steps.
    """

    dataset: Streamed
    samples: TransformedSamples
    plan: BatchPlan
    seed: int
    shuffle: bool
    replace_unreadable: bool
    _epoch: int | None = None
    _order: Indices = ()
    _open: dict[int, tuple[int, Iterator[streamed.Read]]] = field(default_factory=dict)

    def __getitem__(self, reference: tuple[int, int]) -> LoadedBatch:
        epoch, number = reference
        if epoch != self._epoch:
            for _, stream in self._open.values():
                _close(stream)
            self._open = {}
            self._epoch, self._order = epoch, self.indices(epoch)
        start, end = self.plan.span(number)
        indices = self._order[start:end]
        items = self._load(indices, self._lane(number))
        if len(items) < len(indices):
            raise ProtocolError(
                f"Dataset.class: {type(self.dataset).__name__}.stream() yielded fewer samples than requested."
            )
        if self.replace_unreadable and items and all(isinstance(sample, Unreadable) for _, sample in items):
            others = [*self._order[end : self.plan.end], *self._order[self.plan.first : start]]
            items += self._load_readable(others, count=len(indices))
        return collate_read(items)

    def indices(self, epoch: int) -> Indices:
        """Return the samples of a whole epoch in order."""
        key = _order_key(seed=self.seed, epoch=epoch) if self.shuffle else None
        order = self.dataset.epoch_order(key)
        if len(order) != len(self.dataset):
            raise ProtocolError(
                f"Dataset.class: {type(self.dataset).__name__}.epoch_order() returned {len(order)} indices; "
                f"expected {len(self.dataset)}."
            )
        return order

    def _lane(self, number: int) -> Iterator[streamed.Read]:
        """Return a stream that reads this batch, then the rest of its lane."""
        lane = number % self.plan.lanes
        expected, stream = self._open.get(lane, (-1, iter(())))
        if expected != number:
            _close(stream)
            stream = self.dataset.stream(self._order[self.plan.span(number)[0] : self.plan.lane_end(number)])
        self._open[lane] = (number + self.plan.lanes, stream)
        return stream

    def _load(self, indices: Indices, stream: Iterator[streamed.Read]) -> list[tuple[Reference, Any]]:
        assert self._epoch is not None
        # `zip` advances the indices first, so it never consumes an extra item from the stream.
        return [
            self.samples.load(Reference(self._epoch, index), read)
            for index, read in zip(map(int, indices), stream, strict=False)
        ]

    def _load_readable(self, indices: Sequence[int], *, count: int) -> list[tuple[Reference, Any]]:
        """Load up to `count` readable samples."""
        readable: list[tuple[Reference, Any]] = []
        stream = self.dataset.stream(indices)
        for index in indices:
            items = self._load([index], stream)
            readable += [item for item in items if not isinstance(item[1], Unreadable)]
            if len(readable) == count:
                break
        _close(stream)
        return readable

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": None, "_order": (), "_open": {}}


def _close(stream: Iterator[streamed.Read]) -> None:
    """Close a stream if it is a generator; this also closes its files."""
    close = getattr(stream, "close", None)
    if callable(close):
        close()
