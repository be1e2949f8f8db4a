"""The backbone as it is computed in eval mode without gradient: to the same numbers, sooner."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from .folding import folded
from .fusing import can_fuse, fuse

Backbone = TypeVar("Backbone", bound=nn.Module)


def inference_copy(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """Copy a backbone, which is in eval mode, for inference.

    Batch norms are folded. Weights behind the first convolution are cast to `dtype`, as autocast would do in
    every pass. Stages and gates are fused where they can be.
    """
    copied = folded(backbone)
    for name, child in copied.named_children():
        if name != "conv1":
            child.to(dtype)
    if can_fuse(next(copied.parameters()).device, dtype):
        fuse(copied)
    return copied


def computing_dtype(tensor: Tensor) -> torch.dtype:
    """Say in which type convolutions of `tensor` are computed: that of autocast, where there is one."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
