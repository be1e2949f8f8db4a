"""Data sets that are read forward in long stretches, and the batches that workers make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset, Sampler

from ignite_trainer.api.streamed import Indices, Read, Streamed
from ignite_trainer.data.epoch_order import EpochOrder, order_key
from ignite_trainer.data.samples import Batched, TransformedSamples, collate_read
from ignite_trainer.data.unreadable import Unreadable
from ignite_trainer.support.errors import ProtocolError


class BatchPlan:
    """Which stretch of an epoch's order each batch of a process is.

    ```text
    order     |--------- rank 0 ---------|--------- rank 1 ---------| left out |
    lanes     |- 0 -----|- 1 ----|- 2 ---|
    batches    0  3  6   1  4  7  2  5
    ```

    A batch is as large as it would be without lanes; they decide which samples are in it. Their number is the
    data set's and not that of the workers, so workers change nothing. Each lane is read by one worker.

    Args:
        sizes: of the batches of this process, in the order they are asked for.
        first: position in the order where the part of this process begins.
        lanes: into how many stretches the part is cut, at most.
    """

    def __init__(self, sizes: Sequence[int], *, first: int, lanes: int) -> None:
        self.lanes = lanes
        self.first, self.end = first, first + sum(sizes)
        by_lane = sorted(range(len(sizes)), key=lambda number: (number % lanes, number))
        ends = accumulate((sizes[number] for number in by_lane), initial=first)
        self._spans = {
            number: (start, start + sizes[number]) for number, start in zip(by_lane, ends, strict=False)
        }
        self._lane_ends = {number % lanes: self._spans[number][1] for number in by_lane}

    def __len__(self) -> int:
        return len(self._spans)

    def span(self, number: int) -> tuple[int, int]:
        """Where in the order a batch begins and ends."""
        return self._spans[number]

    def lane_end(self, number: int) -> int:
        """Where in the order the lane of a batch ends."""
        return self._lane_ends[number % self.lanes]


def fitting_workers(wanted: int, lanes: int) -> int:
    """The most workers of at most `wanted` that share the lanes evenly, so that none is read by two."""
    return max((number for number in range(1, min(wanted, lanes) + 1) if lanes % number == 0), default=0)


class BatchNumbers(Sampler[tuple[int, int]]):
    """The batches of an epoch, each as (epoch, number), from the one where `order` starts."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._order.epoch
        return ((epoch, number) for number in range(self._order.start, len(self._order)))


class StreamedBatches(Dataset[Batched]):
    """The batches of a streamed data set, asked for by (epoch, number), by each worker those of some lanes.

    Each lane is read on from where its last batch ended. One that is asked for another batch than the next,
    as when a run goes on within an epoch, begins there: what is before is not read.

    Args:
        dataset: the data set.
        samples: loads and transforms one sample.
        plan: which batch is where in the order.
        seed: of the order, with the epoch.
        shuffle: whether the order is drawn.
        stand_in: whether others are read in place of a batch of which nothing can be read, so that all ranks
            take as many steps: those that follow in this process's part of the order, at its end the first.
    """

    def __init__(
        self,
        dataset: Streamed,
        samples: TransformedSamples,
        plan: BatchPlan,
        *,
        seed: int,
        shuffle: bool,
        stand_in: bool,
    ) -> None:
        self._dataset, self._samples, self._plan = dataset, samples, plan
        self._seed, self._shuffle, self._stand_in = seed, shuffle, stand_in
        self._epoch: int | None = None
        self._order: Indices = ()
        self._open: dict[int, tuple[int, Iterator[Read]]] = {}

    def __getitem__(self, reference: tuple[int, int]) -> Batched:
        epoch, number = reference
        if epoch != self._epoch:
            self._close()
            self._epoch, self._order = epoch, self._draw(epoch)
        start, end = self._plan.span(number)
        indices = self._order[start:end]
        items = self._load(indices, self._lane(number))
        if len(items) < len(indices):
            raise ProtocolError(
                f"Dataset.class: stream of {type(self._dataset).__name__} ended after fewer samples than "
                "it was asked for."
            )
        if self._stand_in and items and all(isinstance(sample, Unreadable) for _, sample in items):
            others = [*self._order[end : self._plan.end], *self._order[self._plan.first : start]]
            items += self._load_readable(others, most=len(indices))
        return collate_read(items)

    def _draw(self, epoch: int) -> Indices:
        key = order_key(seed=self._seed, epoch=epoch) if self._shuffle else None
        order = self._dataset.epoch_order(key)
        if len(order) != len(self._dataset):
            raise ProtocolError(
                f"Dataset.class: epoch_order of {type(self._dataset).__name__} has {len(order)} indices "
                f"instead of {len(self._dataset)}."
            )
        return order

    def _lane(self, number: int) -> Iterator[Read]:
        """What reads the batch of this number, and then the rest of its lane."""
        lane = number % self._plan.lanes
        expected, stream = self._open.get(lane, (-1, iter(())))
        if expected != number:
            _close(stream)
            stream = self._dataset.stream(
                self._order[self._plan.span(number)[0] : self._plan.lane_end(number)]
            )
        self._open[lane] = (number + self._plan.lanes, stream)
        return stream

    def _load(self, indices: Indices, stream: Iterator[Read]) -> list[tuple[int, Any]]:
        assert self._epoch is not None
        # The index comes first: after the last one nothing more is taken from the stream.
        return [
            self._samples.load((self._epoch, index), read)
            for index, read in zip(map(int, indices), stream, strict=False)
        ]

    def _load_readable(self, indices: Sequence[int], *, most: int) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        stream = self._dataset.stream(indices)
        for index in indices:
            items = self._load([index], stream)
            found += [item for item in items if not isinstance(item[1], Unreadable)]
            if len(found) == most:
                break
        _close(stream)
        return found

    def _close(self) -> None:
        for _, stream in self._open.values():
            _close(stream)
        self._open = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": None, "_order": (), "_open": {}}


def _close(stream: Iterator[Read]) -> None:
    """End a stream where it is: what it has open is closed."""
    close = getattr(stream, "close", None)
    if callable(close):
        close()
