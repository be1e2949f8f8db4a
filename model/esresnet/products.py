"""Float32 matrix products in a chosen precision, whatever torch's global flags allow."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExactLinear(nn.Linear):
    """A linear layer that computes in IEEE float32 on CUDA, except under autocast.

    Its inputs are means over a whole clip: TensorFloat-32 would round an embedding in the fourth digit.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map `[..., in]` to `[..., out]`."""
        return exact_linear(input, self.weight, self.bias)


def exact_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear`, in IEEE float32 where torch's flags could lower the precision of float32."""
    if not wants_exact_product(x):
        return F.linear(x, weight, bias)
    product: Tensor = products(x, weight, "ieee")
    return product if bias is None else product + bias


def wants_exact_product(x: Tensor) -> bool:
    """Return True for float32 on CUDA outside autocast, where torch's precision flags apply."""
    return x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


@torch.library.custom_op("audioclip::products", mutates_args=())
def products(rows: Tensor, kernels: Tensor, gradient_precision: str) -> Tensor:
    """Multiply each of `rows` `[..., n]` with each of `kernels` `[k, n]`, in IEEE float32: `[..., k]`.

    TensorFloat-32 keeps 10 bits of a factor: the decibels of a quiet bin then come out wrong by tens of dB.

    Args:
        rows: float32 `[..., n]`.
        kernels: float32 `[k, n]`.
        gradient_precision: precision of the products in the backward pass, "ieee" or "tf32".
    """
    del gradient_precision
    return _linear(rows, kernels, precision="ieee")


@torch.library.custom_op("audioclip::product_of_gradient", mutates_args=())
def _product_of_gradient(rows: Tensor, kernels: Tensor, precision: str) -> Tensor:
    """Multiply as `products` does, in another precision and without a gradient."""
    return _linear(rows, kernels, precision=precision)


def _linear(rows: Tensor, kernels: Tensor, *, precision: str) -> Tensor:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        return F.linear(rows, kernels)
    finally:
        matmul.fp32_precision = before


@products.register_fake
@_product_of_gradient.register_fake
def _(rows: Tensor, kernels: Tensor, precision: str) -> Tensor:  # noqa: ARG001
    return rows.new_empty((*rows.shape[:-1], kernels.shape[0]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:  # noqa: ARG001
    rows, kernels, ctx.precision = inputs
    ctx.save_for_backward(rows, kernels)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, kernels = ctx.saved_tensors
    by_rows = by_kernels = None
    if ctx.needs_input_grad[0]:
        by_rows = _product_of_gradient(gradient, kernels.T, ctx.precision)
    if ctx.needs_input_grad[1]:
        flat, flat_rows = gradient.flatten(0, -2), rows.flatten(0, -2)
        by_kernels = _product_of_gradient(flat.T, flat_rows.T, ctx.precision)
    return by_rows, by_kernels, None


products.register_autograd(_backward, setup_context=_save)
