"""Whole batches, read from a data set or its copy on the device, and transferred while a step runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_trainer.api.batch import PaddedBatch, PartialBatch, collate, rebuild
from ignite_trainer.data.samples import Unreadable, attempt

S = TypeVar("S")
T = TypeVar("T")

SHARE_OF_DEVICE = 0.25
"""Maximum share of a device's free memory for the copy of a data set; the rest is for training steps."""


@runtime_checkable
class BatchReader(Protocol):
    """A data set that can read many samples at once, faster than one by one."""

    def read_batch(self, indices: Sequence[int]) -> Any:
        """Return the samples at these positions, collated as by `ignite_trainer.api.batch.collate`.

        This method is called in a thread, one call at a time. Arrays may have a smaller dtype that represents
        their values exactly, such as int16 instead of float32; on the device, they are converted to the dtype
        of single samples.
        """


@dataclass(eq=False)
class OnDevice:
    """Reads batches from a copy of the data set on the device if it fits, or else from the data set.

    The copy is made when the first batch is read. It has the dtypes that `read_batch` returns, and takes up
    to `room()` bytes.
    """

    dataset: Any
    device: torch.device
    room: Callable[[], float]
    _samples: list[Any] | None = field(default=None, init=False)
    _looked: bool = field(default=False, init=False)

    def read_batch(self, indices: Sequence[int]) -> Any:
        """Read a batch as `BatchReader.read_batch` does, with tensors on the device if there is a copy."""
        if not self._looked:
            self._samples, self._looked = self._copy(), True
        if self._samples is None:
            return self.dataset.read_batch(indices)
        chosen = [self._samples[index] for index in indices]
        for sample in chosen:
            if isinstance(sample, Unreadable):
                raise OSError(sample.error)
        columns = zip(*chosen, strict=True)
        samples = zip(*map(_to_common_dtype, columns), strict=True)
        return collate([rebuild(chosen[0], list(fields)) for fields in samples])

    def _copy(self) -> list[Any] | None:
        """Copy all samples to the device; return None if they do not fit."""
        room = self.room()
        samples: list[Any] = []
        for index in range(len(self.dataset)):
            batch = attempt(functools.partial(self.dataset.read_batch, [index]), index)
            if isinstance(batch, Unreadable):
                samples.append(batch)
                continue
            fields = [_first(value, self.device) for value in batch]
            room -= sum(value.nbytes for value in fields if isinstance(value, Tensor))
            if room < 0:
                return None
            samples.append(rebuild(batch, fields))
        return samples


def batches_of(dataset: Dataset[Any], device: torch.device) -> BatchReader | None:
    """Return an object that reads whole batches for this device, or None if the data set cannot."""
    if not isinstance(dataset, BatchReader):
        return None
    if device.type != "cuda":
        return dataset
    return OnDevice(dataset, device, room=lambda: SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0])


class Sent(NamedTuple):
    """A batch on its way to the device."""

    sample: Any
    arrival: torch.cuda.Event | None


class Transfer:
    """Copies batches to a device. On CUDA, it copies from pinned memory on a separate stream.

    Each loader keeps one instance for all its passes, because memory freed on a stream can only be
    reused on it.

    ```text
    thread:  with transfer.in_parallel():  send(sample)
    step:                                                 receive(sent)
    ```
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def in_parallel(self) -> AbstractContextManager[Any]:
        """Return a context in which this thread's device work runs in parallel with the steps."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def send(self, sample: Any) -> Sent:
        """Start copying a collated sample, without waiting for the copy."""
        fields = [on_tensor(field, self._to_device) for field in sample]
        arrival = self._stream.record_event() if self._stream else None
        return Sent(rebuild(sample, fields), arrival)

    def receive(self, sent: Sent) -> Any:
        """Return the sample; the device waits until it has arrived before running a step."""
        if sent.arrival is not None:
            steps = torch.cuda.current_stream(self._device)
            steps.wait_event(sent.arrival)

            def keep(tensor: Tensor) -> Tensor:
                # The copying stream must not reuse this memory while steps still use it.
                tensor.record_stream(steps)
                return tensor

            for field in sent.sample:
                on_tensor(field, keep)
        return sent.sample

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._stream is not None and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def on_tensor(field: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to a field's tensor, if the field has one; lengths and row numbers stay on the CPU."""
    if isinstance(field, PartialBatch):
        return field._replace(values=on_tensor(field.values, apply))
    if isinstance(field, PaddedBatch):
        return field._replace(values=apply(field.values))
    return apply(field) if isinstance(field, Tensor) else field


def one_ahead(make: Callable[[S], T], sources: Iterable[S]) -> Iterator[T]:
    """Yield `make(source)` for each source; a thread makes the next result while the current one is used.

        thread:     make 1  make 2     make 3
        consumer:           |  step 1  |  step 2  |  step 3

    Results are made one at a time. An error in `make` is raised where its result would have been yielded.
    """
    coming: Future[T] | None = None
    for source in sources:
        if coming:
            wait([coming])
        ready, coming = coming, in_thread(make, source)
        if ready:
            yield ready.result()
    if coming:
        yield coming.result()


def in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Start a call in a thread that ends with the call.

    No idle threads may exist when data-loading workers are forked.
    """
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(function, *args)
    executor.shutdown(wait=False)
    return future


def _to_common_dtype(values: Sequence[Any]) -> Sequence[Any]:
    """Convert the arrays of one field to the smallest dtype that holds all of them."""
    if not all(isinstance(value, Tensor) for value in values):
        return values
    dtype = functools.reduce(torch.promote_types, [value.dtype for value in values])
    return [value.to(dtype) for value in values]


def _first(field: Any, device: torch.device) -> Any:
    """Return the only value of a field in a batch of size 1, with an array copied to the device."""
    if isinstance(field, PaddedBatch):
        field = field.values
    if isinstance(field, Tensor):
        return field[0].to(device)
    return field if field is None else field[0]
