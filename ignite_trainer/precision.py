"""The arithmetic of a run: how float32 factors are rounded, what runs in 16 bit, the scale of the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from ignite_trainer.protocol import Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Round the factors of float32 products to TensorFloat-32 if `precision` is "tf32", else not at all.

    That is about CUDA's matrix products and cuDNN's convolutions; of the latter torch's default rounds.
    """
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


@contextlib.contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run in the protocol's precision; parameters stay float32."""
    with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
        yield


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Make what scales the loss so that float16 gradients do not vanish; it does nothing unless "fp16"."""
    return GradScaler(device.type, enabled=precision == "fp16")
