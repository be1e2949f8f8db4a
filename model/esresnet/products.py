"""Float32 matrix products of a chosen precision, whatever precision a process has asked torch for."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("audioclip::products", mutates_args=())
def products(frames: Tensor, kernels: Tensor, gradient_precision: str) -> Tensor:
    """Multiply each row of `frames` `[..., n]` with each row of `kernels` `[k, n]`, in IEEE float32.

    TensorFloat-32 keeps 10 bits of a factor: the decibels of a quiet bin then come out wrong by tens of dB.

    Args:
        frames: get no gradient.
        kernels: get one.
        gradient_precision: of the product that this gradient is, "ieee" or "tf32".

    Returns:
        `[..., k]`.
    """
    del gradient_precision
    return _linear(frames, kernels, precision="ieee")


@torch.library.custom_op("audioclip::kernel_gradient", mutates_args=())
def _kernel_gradient(gradient: Tensor, frames: Tensor, precision: str) -> Tensor:
    """Compute the gradient `[k, n]` of the kernels from that of the products, `[..., k]`."""
    return _linear(gradient.flatten(0, -2).T, frames.flatten(0, -2).T, precision=precision)


def _linear(rows: Tensor, others: Tensor, *, precision: str) -> Tensor:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        return F.linear(rows, others)
    finally:
        matmul.fp32_precision = before


@products.register_fake
def _(frames: Tensor, kernels: Tensor, gradient_precision: str) -> Tensor:  # noqa: ARG001
    return frames.new_empty((*frames.shape[:-1], kernels.shape[0]))


@_kernel_gradient.register_fake
def _(gradient: Tensor, frames: Tensor, precision: str) -> Tensor:  # noqa: ARG001
    return frames.new_empty((gradient.shape[-1], frames.shape[-1]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0])
    ctx.precision = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
    (frames,) = ctx.saved_tensors
    return None, _kernel_gradient(gradient, frames, ctx.precision), None


products.register_autograd(_backward, setup_context=_save)
