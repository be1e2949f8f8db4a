"""Activations computed twice instead of kept: less memory for one more forward pass (arXiv 1604.06174)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Recomputed(nn.Sequential):
    """Modules one after the other; in training only what enters each of them is kept for its backward pass.

    Results, gradients, and the running statistics of batch norms are those of `nn.Sequential`, and so are
    the names of its parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply all modules to `x`."""
        if not torch.is_grad_enabled():
            result: Tensor = super().forward(x)
            return result
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=functools.partial(_contexts, block))
        return x


def recompute(module: nn.Module) -> None:
    """Put a `Recomputed` in the place of every `nn.Sequential` child that holds blocks of layers."""
    for name, child in module.named_children():
        if type(child) is nn.Sequential and any(list(block.children()) for block in child):
            setattr(module, name, Recomputed(*child))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first pass through a block, and the second."""
    return contextlib.nullcontext(), _statistics_unmoved(block)


@contextlib.contextmanager
def _statistics_unmoved(block: nn.Module) -> Iterator[None]:
    """Have batch norms normalise a batch as before, without counting it a second time.

    Modules stay as they are, so that what was compiled for the first pass serves the second.
    """
    norms = [module for module in block.modules() if isinstance(module, _BATCH_NORMS) and module.training]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # by `data`: autograd kept the buffer, and never looks at its values
