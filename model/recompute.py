"""Memory for time and time for memory: recomputed activations and cached values.

`Recomputed` drops activations and computes them again in the backward pass (arXiv 1604.06174);
`CachedValue` keeps a value until the tensors that it depends on change.
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
    """An `nn.Sequential` that keeps only the inputs of its modules for the backward pass.

    Outputs, gradients, running statistics and parameter names are those of `nn.Sequential`.
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
    """Replace each `nn.Sequential` child that consists of blocks by a `Recomputed`."""
    for name, child in module.named_children():
        if type(child) is nn.Sequential and any(list(block.children()) for block in child):
            setattr(module, name, Recomputed(*child))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first pass through a block and of the second."""
    return contextlib.nullcontext(), _statistics_restored(block)


@contextlib.contextmanager
def _statistics_restored(block: nn.Module) -> Iterator[None]:
    """Normalise by the batch again, but leave the running statistics as the first pass left them.

    The modules do not change, so a block compiled for the first pass serves the second.
    """
    norms = [module for module in block.modules() if isinstance(module, _BATCH_NORMS) and module.training]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # through `data`: autograd saved the buffer, but does not use its values


class CachedValue(Generic[T]):
    """A value that is computed again only after one of its source tensors was written, moved or replaced.

    Two kinds of change go unnoticed, as they do by autograd: writes through `parameter.data`, and steps of a
    fused optimizer. After such a step call `torch.autograd.graph.increment_version(parameters)`, as the
    trainer does. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget the value."""
        self._value: T | None = None
        self._sources: tuple[Tensor, ...] = ()
        self._state: tuple[object, ...] = ()

    def get(self, make: Callable[[], T], sources: Iterable[Tensor], *, setting: object = None) -> T:
        """Return the cached value; call `make` first if `sources` or `setting` changed since it was made."""
        sources = tuple(sources)
        state = (setting, *_state(sources))
        same = len(sources) == len(self._sources) and all(map(operator.is_, sources, self._sources))
        if self._value is None or not same or state != self._state:
            self._value = make()
            self._sources = sources  # a reference, so that no new tensor reuses the address
            self._state = state
        return self._value

    def __reduce__(self) -> tuple[type[CachedValue[T]], tuple[()]]:
        return type(self), ()


def _state(sources: tuple[Tensor, ...]) -> tuple[object, ...]:
    """Return what differs after a write, cast or move of a tensor, or a switch of inference mode.

    Tensors count their writes in `_version`, which has no public name. Inference tensors do not count them,
    so their state never equals an earlier one.
    """
    return (
        torch.is_inference_mode_enabled(),
        *((object() if t.is_inference() else t._version, t.data_ptr(), t.dtype, t.device) for t in sources),
    )
