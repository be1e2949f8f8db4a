"""Batches of one split: loaded, copied to the device and augmented."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import methodcaller
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from ignite_trainer.api.batch import (
    BatchTransform,
    MixingTransform,
    PaddedBatch,
    PartialBatch,
    rebuild,
    slice_batch,
)
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.self_description import look_at, sample_name, samples_to_check
from ignite_trainer.api.streamed import Streamed
from ignite_trainer.data.mixing import check_fields, mix, place_of_partner
from ignite_trainer.data.samples import (
    LoadedBatch,
    PlacedTransform,
    Reference,
    TransformedSamples,
    UnreadableSamples,
    collate_read,
    first_readable,
    not_an_array,
    read_readable,
)
from ignite_trainer.data.sampling import BalancedSampling
from ignite_trainer.data.streams import BatchNumbers, BatchPlan, EpochOrder, StreamedBatches, usable_workers
from ignite_trainer.data.transfer import BatchReader, Sent, Transfer, on_tensor, one_ahead
from ignite_trainer.support.distributed import rank
from ignite_trainer.support.errors import ProtocolError, SampleUnreadable, suggest
from ignite_trainer.support.signals import leave_signals_to_parent

_TASK_STREAM = 2**30  # beyond any transform's position


class Batch(NamedTuple):
    """The input of a step.

    Attributes:
        indices: positions of the samples in the data set, int64 `[B]`, on the CPU.
        sample: the data set's sample type with every field collated: a tensor `[B, ...]` on the device, a
            list of non-numeric values, or None if no sample has the field. Values of unequal length become a
            `PaddedBatch` if the loader accepts them; a field that some samples lack becomes a `PartialBatch`.
            `sample` is None for an empty batch, which occurs only in evaluation: its samples are unreadable,
            or the other processes hold all of them.
        random: the samples' streams for `Task.random`, independent of those of the transforms. Steps draw
            from copies, so a step that is repeated draws the same numbers.
    """

    indices: Tensor
    sample: Any
    random: SampleRandom | None = None

    def part(self, rows: slice) -> Batch:
        """Return the given rows of the batch; `rows` must have a start and a stop."""
        positions = torch.arange(rows.start, rows.stop)
        random = None if self.random is None else self.random.select(positions)
        return Batch(self.indices[rows], slice_batch(self.sample, rows), random)


@dataclass(frozen=True, kw_only=True)
class FieldTransform:
    """A transform and the sample field it acts on, by default the first field."""

    apply: Callable[..., Any]
    field: str | None = None
    where: str = "Transforms"
    """JSON path of the transform, for error messages."""


class SplitLoader:
    """The batches of one split; the seed and the epoch alone determine their order and augmentation.

    ```text
    worker:  sample -> transforms, up to the last one that takes single samples -> collate
    device:                                       transforms that take whole batches -> Batch
    ```

    Each transform has a separate random stream for each sample, so its random numbers do not depend on where
    it runs. If all transforms take whole batches and the data set can read whole batches, no workers are
    started: a thread reads the next batch while a step runs. For a streamed data set (see `api/streamed.py`),
    the workers return whole batches, each read from a contiguous slice of the order.

    Args:
        dataset: data set of the split.
        transforms: transforms in the order of application.
        batch_size: global batch size; each process gets a part of every batch.
        workers: number of worker processes, at most the number of available CPU cores.
        shuffle: whether to shuffle the samples in each epoch.
        drop_last: whether to drop an incomplete last batch and refuse empty batches, as training requires.
        seed: seed of the order and the augmentation, combined with the epoch.
        device: device that the batches are copied to.
        unequal_lengths: whether a batch may contain samples of unequal length after the transforms.
        draws: whether to draw one of the `Alternatives` in a field, such as one caption, for each epoch.
        batches: object that reads whole batches, if the data set supports it (see `transfer.batches_of`).
        unreadable: the split's unreadable samples so far, and how many may be skipped; by default, none.
        sampling: draws the samples of each epoch; None to take each sample once.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        transforms: Sequence[FieldTransform],
        *,
        batch_size: int,
        workers: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        device: torch.device,
        unequal_lengths: bool = False,
        draws: bool = False,
        batches: BatchReader | None = None,
        unreadable: UnreadableSamples | None = None,
        sampling: BalancedSampling | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampling = sampling
        self.unreadable = unreadable or UnreadableSamples(dataset, split="given")
        self._unequal_lengths = unequal_lengths
        self._draws = draws
        self._may_be_empty = not drop_last
        self._seed = seed
        self._device = device
        self._epoch = 0
        self._start = 0
        steps: list[PlacedTransform] = [
            PlacedTransform(transform.apply, _field_index(dataset, transform), position, transform.where)
            for position, transform in enumerate(transforms)
        ]
        on_device = len(steps)
        while on_device and isinstance(steps[on_device - 1].apply, BatchTransform | MixingTransform):
            on_device -= 1
        for transform in transforms:
            if isinstance(transform.apply, MixingTransform):
                check_fields(dataset, where=transform.where)
        self._sample_steps = steps[:on_device]
        self._batch_steps = steps[on_device:]
        self._workers = min(workers, _processors())
        self._order = EpochOrder(
            count=sampling.draws if sampling else len(dataset),  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            sampling=sampling,
        )
        self._streamed: StreamedBatches | None = None
        if isinstance(dataset, Streamed):
            self._workers = usable_workers(self._workers, dataset.lanes)
            before = sum(sum(self._order.sizes(other)) for other in range(rank()))
            self._streamed = StreamedBatches(
                dataset,
                TransformedSamples(dataset, self._sample_steps, seed, draws),
                BatchPlan(self._order.sizes(rank()), first=before, lanes=dataset.lanes),
                seed=seed,
                shuffle=shuffle,
                replace_unreadable=drop_last and self.unreadable.may_skip,
            )
        self._batches = None if self._sample_steps or self._streamed else batches
        # Batches may have smaller dtypes than single samples.
        self._dtypes = [_dtype(field) for field in first_readable(dataset)] if self._batches else []
        self._loader: DataLoader[Any] | None = None
        self._transfer = Transfer(device)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def is_streamed(self) -> bool:
        """True if each process reads a slice of the epoch's order instead of a part of each batch."""
        return self._streamed is not None

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Set the epoch of the next iteration, and skip its first `start` batches without loading them."""
        self._epoch = epoch
        self._start = start

    def close(self) -> None:
        """Stop the workers, which otherwise wait for the next iteration."""
        self._loader = None

    def one(self, index: int, *, epoch: int, transformed: bool = True) -> Any:
        """Load one sample as a batch of size 1, augmented as in the given epoch if `transformed`.

        If the epoch has the sample several times, it is augmented as for the first time.

        Raises:
            SampleUnreadable: The sample cannot be read.
        """
        if not transformed:
            return self._one([Reference(epoch, index)], [], [])
        references = [Reference(epoch, index), *self._partner(index, epoch)]
        return self._one(references, self._sample_steps, self._batch_steps)

    def try_transforms(self) -> None:
        """Try each transform on a readable sample that has its field.

        Raises:
            ProtocolError: A transform fails.
        """
        steps = [
            [step._replace(is_tried=True) for step in steps]
            for steps in (self._sample_steps, self._batch_steps)
        ]
        untried = {step.field for step in chain(*steps)}
        for index in samples_to_check(len(self.dataset)):  # type: ignore[arg-type]
            if not untried:
                return
            with contextlib.suppress(SampleUnreadable):
                # If samples are mixed, this one is mixed with itself: its partner may take long to read.
                sample = self._one([Reference(1, index, time) for time in range(1 + self._mixes)], *steps)
                untried = {field for field in untried if sample[field] is None}

    def _one(
        self,
        references: Sequence[Reference],
        sample_steps: list[PlacedTransform],
        batch_steps: Sequence[PlacedTransform],
    ) -> Any:
        """Load the first of the references as a batch of size 1; see `one`."""
        epoch, index, _ = references[0]
        samples = TransformedSamples(self.dataset, sample_steps, self._seed, self._draws)
        read = collate_read(
            [
                samples.load(reference, partial(look_at, self.dataset, reference.position))
                for reference in references
            ]
        )
        if index in (errors := dict(read.failed)):
            raise SampleUnreadable(f"{sample_name(self.dataset, index)} cannot be read: {errors[index]}")
        read = read._replace(sample=self._to_device(read.sample))
        return self._finish(read, epoch, batch_steps, rows=slice(0, 1)).sample

    @property
    def _mixes(self) -> bool:
        return any(isinstance(step.apply, MixingTransform) for step in self._batch_steps)

    def _partner(self, index: int, epoch: int) -> list[Reference]:
        """Return the sample that a sample is mixed with in an epoch, if there is one."""
        if not self._mixes:
            return []
        order = (self._streamed or self._order).indices(epoch)
        place = place_of_partner(index, order, batch_size=self._order.batch_size)
        if place is None:
            return []
        before = np.asarray(order[:place])
        return [Reference(epoch, int(order[place]), int((before == order[place]).sum()))]

    def streams(self, indices: Sequence[int] | Tensor, *, epoch: int) -> SampleRandom:
        """Make the random streams that the samples have in `Task.random` in an epoch."""
        return SampleRandom.of(seed=self._seed, epoch=epoch, indices=indices).stream(_TASK_STREAM)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._order.epoch = self._epoch
        self._order.start = self._start
        for read in self._load() if self._batches is None else self._read(self._batches):
            if read.failed:
                none_left = not self._may_be_empty and not len(read.indices)
                self.unreadable.add(read.failed, none_left=none_left)
            yield self._finish(read, epoch, self._batch_steps)

    def _read(self, source: BatchReader) -> Iterator[LoadedBatch]:
        """Yield whole batches on the device; read and copy the next batch while a step runs."""
        transfer = self._transfer

        def read(references: list[Reference]) -> tuple[LoadedBatch, Sent | None]:
            if not references:  # the batch is smaller than the number of processes
                return collate_read([]), None
            with transfer.in_parallel():
                read = read_readable(source, references)
                return read, None if read.sample is None else transfer.send(read.sample)

        for read_batch, sent in one_ahead(read, self._order):
            if sent is None:
                yield read_batch
                continue
            sample = transfer.receive(sent)
            fields = [
                field if dtype is None else on_tensor(field, methodcaller("to", dtype))
                for field, dtype in zip(sample, self._dtypes, strict=True)
            ]
            yield read_batch._replace(sample=rebuild(sample, fields))

    def _load(self) -> Iterator[LoadedBatch]:
        """Yield batches whose samples the workers load and transform one by one."""
        if self._loader is None:
            source: dict[str, Any] = {
                "dataset": TransformedSamples(self.dataset, self._sample_steps, self._seed, self._draws),
                "batch_sampler": self._order,
                "collate_fn": collate_read,
            }
            if self._streamed:  # items are whole batches
                source = {
                    "dataset": self._streamed,
                    "sampler": BatchNumbers(self._order),
                    "batch_size": None,
                    "collate_fn": _same,
                }
            self._loader = DataLoader(
                **source,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                persistent_workers=self._workers > 0,
                worker_init_fn=leave_signals_to_parent,
                # The loader draws a seed from this generator; torch's global one belongs to the model.
                generator=torch.Generator(),
            )
        for read in self._loader:
            yield read._replace(sample=self._to_device(read.sample))

    def _to_device(self, sample: Any) -> Any:
        if sample is None:
            return None
        send = methodcaller("to", self._device, non_blocking=True)
        return rebuild(sample, [on_tensor(field, send) for field in sample])

    def _finish(
        self, read: LoadedBatch, epoch: int, steps: Sequence[PlacedTransform], rows: slice | None = None
    ) -> Batch:
        """Apply the transforms that take whole batches; return the given rows, by default all."""
        if read.sample is None:
            return Batch(read.indices, None)
        random = SampleRandom.of(
            seed=self._seed, epoch=epoch, indices=read.indices, repetitions=read.repetitions
        )
        fields = list(read.sample)
        with record_function("step/augmentation"):
            for step in steps:
                streams = random.stream(step.position)
                with step.named():
                    if isinstance(step.apply, MixingTransform):
                        fields = mix(fields, step.field, step.apply, streams, read)
                    else:
                        fields[step.field] = _transformed(fields[step.field], step.apply, streams)
        sample = rebuild(read.sample, fields)
        if rows is not None:
            read, sample = read._replace(indices=read.indices[rows]), slice_batch(sample, rows)
            random = random.select(torch.arange(len(random))[rows])
        fields = [_unpad(field, unequal_lengths=self._unequal_lengths) for field in sample]
        return Batch(read.indices, rebuild(sample, fields), random.stream(_TASK_STREAM))


def _processors() -> int:
    """Return the number of processors available to this process."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def _same(batch: Any) -> Any:
    """Identity collate: the data set yields batches."""
    return batch


def _transformed(field: Any, transform: Any, random: SampleRandom) -> Any:
    if isinstance(field, PartialBatch):
        return field._replace(values=_transformed(field.values, transform, random.select(field.rows)))
    if field is not None and not isinstance(field, PaddedBatch):
        raise not_an_array(field[0])
    return None if field is None else transform.batch(field, random)


def _dtype(field: Any) -> torch.dtype | None:
    return torch.as_tensor(field).dtype if isinstance(field, np.ndarray | Tensor) else None


def _unpad(field: Any, *, unequal_lengths: bool) -> Any:
    if isinstance(field, PartialBatch):
        return field._replace(values=_unpad(field.values, unequal_lengths=unequal_lengths))
    if not isinstance(field, PaddedBatch):
        return field
    shortest, longest = int(field.lengths.min()), int(field.lengths.max())
    if shortest == longest:
        return field.values[..., :longest]
    if unequal_lengths:
        return field
    raise ProtocolError(
        f"Transforms: one batch has samples of length {shortest} to {longest}, but all must have the same "
        "length, because padding would change the model's input. Add transforms that make the lengths equal."
    )


def _field_index(dataset: Dataset[Any], transform: FieldTransform) -> int:
    field = transform.field
    if field is None:
        return 0
    names = getattr(first_readable(dataset), "_fields", ())
    if field not in names:
        raise ProtocolError(
            f'{transform.where}.field is "{field}", which the samples do not have; {suggest(field, names)}'
        )
    if first_readable(dataset, lambda sample: getattr(sample, field) is not None) is None:
        raise ProtocolError(
            f'{transform.where}.field is "{field}", which is None in all of the samples checked, so there is '
            "nothing to transform."
        )
    return int(names.index(field))
