"""The batches of one split: read or loaded, sent to the device, augmented there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ignite_trainer.api.batch import BatchTransform, PaddedBatch, PartialBatch, collate, rebuild
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.self_description import look_at, sample_name
from ignite_trainer.api.streamed import Streamed
from ignite_trainer.data.batch_sources import GivesBatches
from ignite_trainer.data.epoch_order import EpochOrder
from ignite_trainer.data.prefetch import one_ahead
from ignite_trainer.data.samples import Step, TransformedSamples, collate_read
from ignite_trainer.data.streams import BatchNumbers, BatchPlan, StreamedBatches, fitting_workers
from ignite_trainer.data.transfer import Sent, Transfer, on_tensor
from ignite_trainer.data.unreadable import Unreadable, UnreadableSamples, first_readable, read_readable
from ignite_trainer.support.errors import ProtocolError, suggest
from ignite_trainer.support.profiling import phase
from ignite_trainer.support.signals import leave_signals_to_parent


class Batch(NamedTuple):
    """What a step is given.

    Attributes:
        indices: positions of the samples in the data set, int64 `[B]`, on the CPU.
        sample: the data set's sample type, every field collated: tensors `[B, ...]` on the device, a list of
            what is not numeric, None where every sample has None. A field of unequal lengths is a
            `PaddedBatch`, where the loader lets such pass; what some samples lack is a `PartialBatch`. None
            if there is no sample: in evaluation, where those of the batch could not be read, or are with
            other processes.
    """

    indices: Tensor
    sample: Any


@dataclass(frozen=True, kw_only=True)
class FieldTransform:
    """A transform and the field of a sample it acts on; None: the first."""

    apply: Callable[..., Any]
    field: str | None = None
    where: str = "Transforms"
    """JSON path, for messages."""


class SplitLoader:
    """The batches of one split, in an order and with an augmentation given by (seed, epoch) alone.

    ```text
    worker:  sample -> transforms up to the last that takes one sample at a time -> collate
    device:                                     transforms that take a whole batch -> Batch
    ```

    Every transform has a random stream of its own for each sample, so it makes no difference where it runs.
    Where all transforms take whole batches, and something gives such, there is nothing for workers to do: a
    thread reads the next batch while a step runs. Of a data set that is `Streamed`, see api/streamed.py,
    workers make whole batches, each of a stretch that it reads from end to end.
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
        batches: GivesBatches | None = None,
        unreadable: UnreadableSamples | None = None,
    ) -> None:
        """Look at the first sample to find the fields; load nothing else yet.

        `batch_size` is that of all processes together; each gets its part of every batch.
        `unequal_lengths` lets batches pass that the transforms leave padded; else they are an error.
        Batches without a sample pass where `drop_last` is false: not in training.
        `batches` gives whole batches of the data set; see batch_sources.py. `unreadable` decides
        about samples that cannot be read; None: they end the run.
        """
        self.dataset = dataset
        self.unreadable = unreadable or UnreadableSamples(dataset, split="given")
        self._unequal_lengths, self._may_be_empty = unequal_lengths, not drop_last
        self._seed, self._device, self._epoch, self._start = seed, device, 0, 0
        indexed: list[Step] = [
            (_field_index(dataset, transform), position, transform.apply)
            for position, transform in enumerate(transforms)
        ]
        on_device = len(indexed)
        while on_device and isinstance(indexed[on_device - 1][2], BatchTransform):
            on_device -= 1
        self._batch_steps: list[tuple[int, int, Any]] = indexed[on_device:]
        self._sample_steps = indexed[:on_device]
        self._workers = min(workers, _processors())
        self._order = EpochOrder(
            len(dataset),  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
        )
        self._streamed: StreamedBatches | None = None
        if isinstance(dataset, Streamed):
            self._workers = fitting_workers(self._workers, dataset.lanes)
            self._streamed = StreamedBatches(
                dataset,
                TransformedSamples(dataset, self._sample_steps, seed),
                BatchPlan(self._order.sizes, first=self._order.first, lanes=dataset.lanes),
                seed=seed,
                shuffle=shuffle,
                stand_in=drop_last and self.unreadable.may_skip,
            )
        self._batches = None if self._sample_steps or self._streamed else batches
        self._kinds = [_kind(field) for field in first_readable(dataset)] if self._batches else []
        self._loader: DataLoader[Any] | None = None
        self._transfer = Transfer(device)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def is_streamed(self) -> bool:
        """Whether each process reads a stretch of the epoch's order, not a part of each of its batches."""
        return self._streamed is not None

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Choose the epoch whose order and augmentation the next iteration gives.

        `start` batches of it are left out, and not loaded: a run goes on within an epoch.
        """
        self._epoch, self._start = epoch, start

    def close(self) -> None:
        """End the workers, which otherwise wait for the next iteration."""
        self._loader = None

    def one(self, index: int, *, epoch: int, transformed: bool = True) -> Any:
        """Load one sample, as a batch of one; if `transformed`, as the epoch has it.

        Raises:
            ProtocolError: it cannot be read.
        """
        samples = TransformedSamples(self.dataset, self._sample_steps if transformed else [], self._seed)
        _, sample = samples.load((epoch, index), lambda: look_at(self.dataset, index))
        if isinstance(sample, Unreadable):
            raise ProtocolError(f"{sample_name(self.dataset, index)} cannot be read: {sample.error}")
        sample = collate([sample])
        fields = [on_tensor(field, lambda tensor: tensor.to(self._device)) for field in sample]
        streams = SampleRandom.of(seed=self._seed, epoch=epoch, indices=[index])
        return self._finish(rebuild(sample, fields), streams, self._batch_steps if transformed else [])

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._order.epoch = self._epoch
        self._order.start = self._start
        for indices, sample in self._load() if self._batches is None else self._read(self._batches):
            streams = SampleRandom.of(seed=self._seed, epoch=epoch, indices=indices)
            yield Batch(indices, None if sample is None else self._finish(sample, streams, self._batch_steps))

    def _read(self, source: GivesBatches) -> Iterator[tuple[Tensor, Any]]:
        """Whole batches on the device, the next one read and sent while a step runs."""
        transfer = self._transfer

        def read(references: list[tuple[int, int]]) -> tuple[Tensor, Sent | None, list[Unreadable]]:
            if not references:  # of a batch smaller than the number of processes
                return torch.empty(0, dtype=torch.int64), None, []
            with transfer.beside():
                indices, sample, failed = read_readable(source, [index for _, index in references])
                return (
                    torch.tensor(indices, dtype=torch.int64),
                    transfer.send(sample) if indices else None,
                    failed,
                )

        for indices, sent, failed in one_ahead(read, self._order):
            self._count(failed, read=len(indices))
            if sent is None:
                yield indices, None
                continue
            sample = transfer.receive(sent)
            fields = [_as_kind(field, kind) for field, kind in zip(sample, self._kinds, strict=True)]
            yield indices, rebuild(sample, fields)

    def _load(self) -> Iterator[tuple[Tensor, Any]]:
        """Batches of samples that are loaded, and transformed so far, one by one."""
        if self._loader is None:
            source: dict[str, Any] = {
                "dataset": TransformedSamples(self.dataset, self._sample_steps, self._seed),
                "batch_sampler": self._order,
                "collate_fn": collate_read,
            }
            if self._streamed:  # gives whole batches
                numbers = BatchNumbers(self._order)
                source = {
                    "dataset": self._streamed,
                    "sampler": numbers,
                    "batch_size": None,
                    "collate_fn": _same,
                }
            self._loader = DataLoader(
                **source,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                persistent_workers=self._workers > 0,
                worker_init_fn=leave_signals_to_parent,
                # It draws a number of its own; torch's generator is the model's.
                generator=torch.Generator(),
            )
        for indices, sample, failed in self._loader:
            self._count(failed, read=len(indices))
            if sample is None:
                yield indices, None
                continue
            fields = [
                on_tensor(field, lambda tensor: tensor.to(self._device, non_blocking=True))
                for field in sample
            ]
            yield indices, rebuild(sample, fields)

    def _count(self, failed: list[Unreadable], *, read: int) -> None:
        self.unreadable.add(failed, of=read + len(failed), needs_one=not self._may_be_empty)

    def _finish(self, sample: Any, streams: SampleRandom, steps: Sequence[tuple[int, int, Any]]) -> Any:
        """Run transforms that take whole batches."""
        fields = list(sample)
        with phase("augmentation"):
            for index, position, transform in steps:
                fields[index] = _transformed(fields[index], transform, streams.stream(position))
        return rebuild(sample, [_unpad(field, unequal_lengths=self._unequal_lengths) for field in fields])


def _processors() -> int:
    """Processors that this process may use: more workers than that only wait for each other."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def _same(batch: Any) -> Any:
    """Identity collate: the data set yields batches."""
    return batch


def _transformed(field: Any, transform: BatchTransform, streams: SampleRandom) -> Any:
    """A field of a batch after a transform of the samples that have it."""
    if isinstance(field, PartialBatch):
        return field._replace(values=transform.batch(field.values, streams.select(field.rows)))
    return None if field is None else transform.batch(field, streams)


def _kind(field: Any) -> torch.dtype | None:
    """The type of an array's values; None for what is none."""
    return torch.as_tensor(field).dtype if isinstance(field, np.ndarray | Tensor) else None


def _as_kind(field: Any, kind: torch.dtype | None) -> Any:
    """A field with the type that it has in single samples: batches may come in a smaller one."""
    return field if kind is None else on_tensor(field, lambda tensor: tensor.to(kind))


def _unpad(field: Any, *, unequal_lengths: bool) -> Any:
    if isinstance(field, PartialBatch):
        return field._replace(values=_unpad(field.values, unequal_lengths=unequal_lengths))
    if not isinstance(field, PaddedBatch):
        return field
    shortest, longest = int(field.lengths.min()), int(field.lengths.max())
    if shortest != longest and unequal_lengths:
        return field
    if shortest != longest:
        raise ProtocolError(
            f"Transforms leave samples of {shortest} to {longest} values in one batch, and padding would "
            "change what the model sees; add transforms that make them equally long."
        )
    return field.values[..., :longest]


def _field_index(dataset: Dataset[Any], transform: FieldTransform) -> int:
    if transform.field is None:
        return 0
    names = getattr(first_readable(dataset), "_fields", ())
    if transform.field not in names:
        raise ProtocolError(
            f'{transform.where}.field is "{transform.field}", which samples lack; '
            + suggest(transform.field, names)
        )
    field = transform.field
    if first_readable(dataset, lambda sample: getattr(sample, field) is not None) is None:
        raise ProtocolError(
            f'{transform.where}.field is "{field}", which no sample looked at has: '
            "there is nothing to transform."
        )
    return int(names.index(transform.field))
