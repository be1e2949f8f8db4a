"""Trade-offs between memory and time: recomputed activations and cached values.

`Recomputed` drops activations and recomputes them in the backward pass (arXiv 1604.06174). `CachedValue`
keeps a value until the tensors on which it depends change.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Recomputed(nn.Sequential):
    """An `nn.Sequential` that keeps only its modules' inputs for the backward pass.

    Outputs, gradients, running statistics and parameter names are the same as with `nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply all modules in turn."""
        if not torch.is_grad_enabled():
            result: Tensor = super().forward(x)
            return result
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=functools.partial(_contexts, block))
        return x


def recompute(module: nn.Module) -> None:
    """Replace each `nn.Sequential` child that contains blocks with a `Recomputed`."""
    for name, child in module.named_children():
        if type(child) is nn.Sequential and any(list(block.children()) for block in child):
            setattr(module, name, Recomputed(*child))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts for the first and the second pass through a block."""
    return contextlib.nullcontext(), _statistics_restored(block)


@contextlib.contextmanager
def _statistics_restored(block: nn.Module) -> Iterator[None]:
    """Normalise by the batch again, but keep the running statistics of the first pass.

    The modules stay in train mode, so a block compiled for the first pass also serves the second.
    """
    norms = [module for module in block.modules() if isinstance(module, _BATCH_NORMS) and module.training]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # via `data`: autograd has saved the buffer but does not use its values


class CachedValue(Generic[T]):
    """A value that is recomputed only after one of its source tensors was written, moved or replaced.

    Two kinds of change go unnoticed, here as in autograd: writes through `parameter.data`, and the steps of a
    fused optimizer. Call `torch.autograd.graph.increment_version(parameters)` after each step of a fused
    optimizer, as the trainer does. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Drop the cached value."""
        self._value: T | None = None
        self._sources: tuple[Tensor, ...] = ()
        self._state: tuple[object, ...] = ()

    def get(self, make: Callable[[], T], sources: Iterable[Tensor], *, setting: object = None) -> T:
        """Return the cached value; call `make` first if `sources` or `setting` have changed since."""
        sources = tuple(sources)
        state = (setting, *_state(sources))
        same = len(sources) == len(self._sources) and all(map(operator.is_, sources, self._sources))
        if self._value is None or not same or state != self._state:
            self._value = make()
            self._sources = sources  # keeping them prevents new tensors from reusing their addresses
            self._state = state
        return self._value

    def __reduce__(self) -> tuple[type[CachedValue[T]], tuple[()]]:
        return type(self), ()


def _state(sources: tuple[Tensor, ...]) -> tuple[object, ...]:
    """Return a state that changes when a tensor is written, cast or moved, or inference mode is switched.

    Tensors count writes in `_version`, which has no public name. Inference tensors do not count writes, so
    their state never equals an earlier state.
    """
    return (
        torch.is_inference_mode_enabled(),
        *((object() if t.is_inference() else t._version, t.data_ptr(), t.dtype, t.device) for t in sources),
    )
