"""The arithmetic of a run: how float32 factors are rounded, what runs in 16 bit, the scale of the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from ignite_trainer.protocol.sections import Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Round the factors of float32 products to TensorFloat-32 if `precision` is "tf32", else not at all.

    This concerns CUDA's matrix products and cuDNN's convolutions; torch's default rounds those of the latter.
    """
    backends: Any = torch.backends  # which does not declare its newer switches
    switches = (backends.cuda.matmul, backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    _allow_tf32(precision == "tf32", precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(*(setting == "tf32" for setting in before))
        for switch, setting in zip(switches, before, strict=True):
            switch.fp32_precision = setting


def _allow_tf32(matrix_products: bool, convolutions: bool) -> None:
    """Set torch's older switches, which set the newer ones, too; torch refuses to read two that disagree."""
    torch.backends.cuda.matmul.allow_tf32 = matrix_products
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run in the protocol's precision; parameters stay float32."""
    with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
        yield


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Make what scales the loss so that float16 gradients do not vanish; it does nothing unless "fp16"."""
    return GradScaler(device.type, enabled=precision == "fp16")
