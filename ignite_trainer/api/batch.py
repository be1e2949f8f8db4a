"""Batches of samples of unequal length, and the transforms that act on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.support.errors import ProtocolError


class PaddedBatch(NamedTuple):
    """Samples of unequal length, padded with zeros and stacked.

    Attributes:
        values: samples `[B, ..., L]`, where L is the length of the longest sample.
        lengths: original lengths, int64 `[B]`, on the CPU because the host computes shapes from them.
    """

    values: Tensor
    lengths: Tensor

    @classmethod
    def stack(cls, samples: list[Tensor]) -> PaddedBatch:
        """Stack samples, padding the end of the last axis with zeros. Keep the device and dtype.

        Raises:
            ProtocolError: The samples differ in dtype or in an axis other than the last.
        """
        kinds = {(tuple(sample.shape[:-1]), str(sample.dtype).removeprefix("torch.")) for sample in samples}
        if len(kinds) > 1:
            found = " and ".join(f"{kind} {[*shape, 'L']}" for shape, kind in sorted(kinds)).replace("'", "")
            raise ProtocolError(
                "samples in a batch must have the same dtype and shape, except for the length L; got "
                f"{found}."
            )
        lengths = torch.tensor([sample.shape[-1] for sample in samples])
        if int(lengths.min()) == int(lengths.max()):
            return cls(torch.stack(samples), lengths)
        values = samples[0].new_zeros((len(samples), *samples[0].shape[:-1], int(lengths.max())))
        for row, sample in zip(values, samples, strict=True):
            row[..., : sample.shape[-1]] = sample
        return cls(values, lengths)


class PartialBatch(NamedTuple):
    """A field that only some samples of a batch have.

    Attributes:
        rows: positions in the batch of the samples that have the field, int64 `[n]`, ascending, on the CPU.
        values: collated values of these samples.
    """

    rows: Tensor
    values: Any


class Alternatives(tuple[Any, ...]):
    """Several values of a sample's field that are equally valid, such as captions of an image.

    Training draws one of them for each sample and epoch, before the transforms (see `draw_alternatives`).
    Evaluation gets them all, and so do its transforms of this field. A data set that reads whole batches
    cannot return them.
    """

    __slots__ = ()


class Mixed(NamedTuple):
    """A value of a list field, such as a sample's labels, after samples were mixed with each other.

    If a transform mixes samples, every row of a batch's list fields is such a value; a sample that was not
    mixed has a single value.

    Attributes:
        values: the sample's own value, then the values of the samples mixed into it.
        weights: shares of these samples in the mixture; they sum to 1.
        samples: positions of these samples in the data set.
    """

    values: tuple[Any, ...]
    weights: tuple[float, ...]
    samples: tuple[int, ...]


def draw_alternatives(fields: Sequence[Any], random: SampleRandom) -> list[Any]:
    """Replace each field of a sample that has `Alternatives` by one of them; `random` has one stream.

    The draw is a function of the stream and the position of the field, whatever transforms there are.
    """
    drawn = list(fields)
    for position, value in enumerate(fields):
        if isinstance(value, Alternatives):
            # Transforms have the streams from 0 on.
            stream = random.stream(-1 - position)
            drawn[position] = value[int(stream.integers(torch.tensor([len(value)]))[0])]
    return drawn


class BatchTransform(ABC):
    """A transform that acts on whole batches, on any device.

    Like a torchvision transform, it can also be called with one sample, which it treats as a batch of size 1.
    """

    @abstractmethod
    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Transform each sample with its own random numbers; do not modify `batch`."""

    def __call__(self, sample: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Transform one sample `[..., L]`; without `random`, torch's global generator provides the seed."""
        lengths = torch.tensor([sample.shape[-1]])
        batch = self.batch(
            PaddedBatch(sample[None], lengths), SampleRandom.from_torch() if random is None else random
        )
        return batch.values[0, ..., : int(batch.lengths[0])]


class MixingTransform(ABC):
    """A transform that mixes samples with each other, two at a time; for training only.

    Samples 2k and 2k+1 of a batch are partners. If the batch of each process is even, the partners do not
    depend on the batch size and the number of processes: they are neighbours in the epoch's order. A sample
    stays as it is if its partner is unreadable or lacks the field, or if only one of them has a list field.

    All transforms that take single samples must come before it. When it has acted, every value of the list
    fields, such as labels, is `Mixed`.
    """

    @abstractmethod
    def __call__(
        self, batch: PaddedBatch, partners: Tensor, random: SampleRandom
    ) -> tuple[PaddedBatch, Tensor]:
        """Mix each sample with its partner, by its own random numbers; do not modify `batch`.

        Args:
            batch: samples of one field, `[B, ..., L]`.
            partners: row of each sample's partner, int64 `[B]`, on the CPU; its own row if it has none.
            random: streams of the samples.

        Returns:
            Mixtures, and the share of each sample in its mixture, float64 `[B]`, on the CPU: 1 for a sample
            that stays as it is, which every sample without a partner does.
        """


def collate(samples: Sequence[Any]) -> Any:
    """Collate samples into one batch; its type is that of a sample (tuple, named tuple or list).

    Array fields become a `PaddedBatch`, scalar fields a tensor `[B]`, and all other fields a list. A field
    that is None in every sample stays None. A field that is None in some samples becomes a `PartialBatch`.

    Example:
        >>> batch = collate([(np.zeros((1, 3)), None, "dog"), (np.ones((1, 2)), np.ones(4), "rain")])
        >>> batch[0].values.shape, batch[0].lengths.tolist()
        (torch.Size([2, 1, 3]), [3, 2])
        >>> rows_with_field(batch[1], count=2).tolist(), batch[2]
        ([1], ['dog', 'rain'])
    """
    columns = zip(*samples, strict=True)
    return rebuild(samples[0], [collate_field(list(column)) for column in columns])


def collate_field(values: list[Any]) -> Any:
    """Collate the values of one field; see `collate`."""
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        rows = [row for row, value in enumerate(values) if value is not None]
        return PartialBatch(torch.tensor(rows), collate_field([values[row] for row in rows]))
    if all(isinstance(value, np.ndarray | Tensor) for value in values):
        tensors = [torch.as_tensor(value) for value in values]
        return PaddedBatch.stack(tensors) if tensors[0].ndim else torch.stack(tensors)
    if all(isinstance(value, int | float | np.number | np.bool_) for value in values):
        return torch.tensor(values)
    return values


def rebuild(like: Any, fields: list[Any]) -> Any:
    """Build a sample or a batch from its fields, with the type of `like`: a named tuple, tuple or list."""
    return like._make(fields) if hasattr(like, "_make") else type(like)(fields)


def slice_batch(batch: Any, rows: slice) -> Any:
    """Return the given rows of a collated batch. `rows` must have a start and a stop."""
    return rebuild(batch, [_slice_field(field, rows) for field in batch])


def rows_with_field(field: Any, count: int) -> Tensor:
    """Return the positions of samples that have this field, in a batch of `count`: int64 `[n]`, ascending.

    The positions are on the CPU.
    """
    if isinstance(field, PartialBatch):
        return field.rows
    return torch.arange(0 if field is None else count)


def field_values(field: Any) -> Any:
    """Return the collated values of the samples that have this field, or None if no sample has it."""
    return field.values if isinstance(field, PartialBatch) else field


def _slice_field(field: Any, rows: slice) -> Any:
    if isinstance(field, PartialBatch):
        inside = [row - rows.start for row in field.rows.tolist() if rows.start <= row < rows.stop]
        first = int((field.rows < rows.start).sum())
        if not inside:
            return None
        values = _slice_field(field.values, slice(first, first + len(inside)))
        return values if len(inside) == rows.stop - rows.start else PartialBatch(torch.tensor(inside), values)
    if isinstance(field, PaddedBatch):
        return PaddedBatch(field.values[rows], field.lengths[rows])
    return field[rows] if isinstance(field, Tensor | list) else field
