"""Copies the next batch to the device while the current step runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ignite_trainer.api.batch import PaddedBatch, PartialBatch, rebuild


class Sent(NamedTuple):
    """A batch on its way to the device."""

    sample: Any
    arrival: torch.cuda.Event | None


class Transfer:
    """Sends batches to a device: to CUDA from pinned memory, on a stream of its own.

    One instance serves all passes of a loader: memory freed on a stream is only reused on that stream.

    ```text
    thread:  with transfer.beside():  send(sample)
    step:                                            receive(sent)
    ```
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def beside(self) -> AbstractContextManager[Any]:
        """Return a context in which the device's work for this thread runs beside the steps."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def send(self, sample: Any) -> Sent:
        """Start to copy a collated sample, without waiting for it."""
        fields = [on_tensor(field, self._to_device) for field in sample]
        arrival = self._stream.record_event() if self._stream else None
        return Sent(rebuild(sample, fields), arrival)

    def receive(self, sent: Sent) -> Any:
        """Return the sample; the device waits for its arrival before it runs a step."""
        if sent.arrival is not None:
            steps = torch.cuda.current_stream(self._device)
            steps.wait_event(sent.arrival)
            for field in sent.sample:
                on_tensor(field, lambda tensor: _used_on(tensor, steps))
        return sent.sample

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._stream is not None and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _used_on(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """Keep the sending stream from reusing the tensor's memory before this stream is done with it."""
    tensor.record_stream(stream)
    return tensor


def on_tensor(field: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensor that a field holds, if any; lengths and rows stay on the CPU."""
    if isinstance(field, PartialBatch):
        return field._replace(values=on_tensor(field.values, apply))
    if isinstance(field, PaddedBatch):
        return field._replace(values=apply(field.values))
    return apply(field) if isinstance(field, Tensor) else field
