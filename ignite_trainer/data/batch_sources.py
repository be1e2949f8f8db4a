"""Where whole batches come from: a data set that gives them, or a copy of it on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_trainer.api.batch import PaddedBatch, collate, rebuild
from ignite_trainer.data.unreadable import Unreadable, as_unreadable

SHARE_OF_DEVICE = 0.25
"""Of the memory that is free on a device, the most that a copy of a data set takes; the rest is for steps."""


@runtime_checkable
class GivesBatches(Protocol):
    """A data set that can give many samples at once, faster than one by one."""

    def read_batch(self, indices: Sequence[int]) -> Any:
        """Give the samples at these positions, collated as `ignite_trainer.api.batch.collate` does.

        It is called in a thread, by one at a time. Arrays may come in a smaller type that holds the same
        numbers, such as int16 for float32: they become what single samples have once they are on the device.
        """


class OnDevice:
    """Batches of a data set from a copy of all its samples on a device, if that has room for them.

    The copy is made when the first batch is asked for; samples keep the type that the data set's `read_batch`
    gives them. Where they do not fit, every batch is the data set's own.

    Args:
        dataset: gives the samples.
        device: where the copy is.
        room: bytes it may take at most, asked when it is made.
    """

    def __init__(self, dataset: Any, device: torch.device, *, room: Callable[[], float]) -> None:
        self._dataset, self._device, self._room = dataset, device, room
        self._samples: list[Any] | None = None
        self._looked = False

    @classmethod
    def of_cuda(cls, dataset: Any, device: torch.device) -> OnDevice:
        """A copy that takes at most `SHARE_OF_DEVICE` of the memory that is free when it is made."""
        return cls(dataset, device, room=lambda: SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0])

    @property
    def held(self) -> bool:
        """Whether the samples are on the device."""
        return self._samples is not None

    def read_batch(self, indices: Sequence[int]) -> Any:
        """As `GivesBatches.read_batch`; tensors are on the device if the samples are held there."""
        if not self._looked:
            self._samples, self._looked = self._copy(), True
        if self._samples is None:
            return self._dataset.read_batch(indices)
        chosen = [self._samples[index] for index in indices]
        for sample in chosen:
            if isinstance(sample, Unreadable):
                raise OSError(sample.error)
        columns = zip(*chosen, strict=True)
        samples = zip(*map(_of_one_type, columns), strict=True)
        return collate([rebuild(chosen[0], list(fields)) for fields in samples])

    def _copy(self) -> list[Any] | None:
        """All samples with their arrays on the device; None if there is no room for them."""
        room = self._room()
        samples: list[Any] = []
        for index in range(len(self._dataset)):
            try:
                one = self._dataset.read_batch([index])
            except Exception as error:
                samples.append(as_unreadable(error, index))
                continue
            fields = [_only(field, self._device) for field in one]
            room -= sum(field.nbytes for field in fields if isinstance(field, Tensor))
            if room < 0:
                return None
            samples.append(rebuild(one, fields))
        return samples


def batches_of(dataset: Dataset[Any], device: torch.device) -> GivesBatches | None:
    """What gives whole batches of a data set to steps on a device; None if nothing does."""
    if not isinstance(dataset, GivesBatches):
        return None
    return OnDevice.of_cuda(dataset, device) if device.type == "cuda" else dataset


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    """Values of one field; arrays with the smallest type that holds all of theirs."""
    if not all(isinstance(value, Tensor) for value in values):
        return values
    kind = functools.reduce(torch.promote_types, [value.dtype for value in values])
    return [value.to(kind) for value in values]


def _only(field: Any, device: torch.device) -> Any:
    """The one sample of a batch of one, on the device if it is an array."""
    if isinstance(field, PaddedBatch):
        field = field.values
    if isinstance(field, Tensor):
        return field[0].to(device)
    return field if field is None else field[0]
