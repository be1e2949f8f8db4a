"""Float32 matrix products that stay float32, whatever precision a process has asked torch for."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("audioclip::ieee_products", mutates_args=())
def ieee_products(frames: Tensor, kernels: Tensor) -> Tensor:
    """Multiply each row of `frames` `[..., n]` with each row of `kernels` `[k, n]`, in IEEE float32.

    TensorFloat-32 keeps 10 bits of a factor: the decibels of a quiet bin then come out wrong by tens of dB.
    Being one operation to torch.compile, the product also stays out of reach of inductor's own kernels.

    Returns:
        `[..., k]`. The gradient of `kernels` follows the precision of the process; `frames` get none.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        return torch.nn.functional.linear(frames, kernels)
    finally:
        matmul.fp32_precision = before


@ieee_products.register_fake
def _(frames: Tensor, kernels: Tensor) -> Tensor:
    return frames.new_empty((*frames.shape[:-1], kernels.shape[0]))


def _save_frames(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0])


def _kernel_gradient(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    (frames,) = ctx.saved_tensors
    return None, gradient.flatten(0, -2).T @ frames.flatten(0, -2)


ieee_products.register_autograd(_kernel_gradient, setup_context=_save_frames)
