"""Convolutions with what follows them in one kernel: the same numbers, without its passes over memory.

On a CPU a rectification, an addition, a sigmoid each cost about what the 1x1 convolution before them does,
since memory is what they wait for. oneDNN does them while it writes the convolution's result. Only for
convolutions without batch norm, and without gradient. torch has no public names for these kernels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from .attention import Gate


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether oneDNN's kernels compute on `device` in `dtype`."""
    mkldnn = torch.backends.mkldnn
    if device.type != "cpu" or not (mkldnn.is_available() and bool(mkldnn.enabled)):
        return False
    supported = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return bool(supported.get(dtype, False))


def fuse(network: nn.Module) -> None:
    """Put fused modules in the place of `network`'s gates and bottleneck blocks, whose norms are folded."""
    for name, child in network.named_children():
        if isinstance(child, Bottleneck):
            setattr(network, name, FusedBottleneck(child))
        elif isinstance(child, Gate):
            setattr(network, name, FusedGate(child))
        else:
            fuse(child)


class FusedBottleneck(nn.Module):
    """A residual block: 1x1, grouped 3x3 and 1x1 convolution, added to its input or a convolution of that.

    Where it is added to the input itself, the result takes the input's place in memory.

    Args:
        block: torchvision's, its batch norms folded.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = block.conv1, block.conv2, block.conv3
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]`, of the weights' dtype, to `[B, out, H', W']`."""
        residual = x if self.downsample is None else self.downsample(x)
        x = convolve(x, self.conv1, then="relu")
        x = F.relu_(self.conv2(x))  # grouped: there oneDNN's fused kernel can take longer than both
        return _add_convolution(residual, x, self.conv3)


class FusedGate(nn.Module):
    """A gate whose last convolution gives what passes, from 0 to 1.

    Args:
        gate: its batch norm folded.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Multiply `output` in place by the gate of `x`; shapes as for `Gate`."""
        size = tuple(output.shape[-2:])
        seen = self.gate.look(x, size=size)
        if size == (1, 1):
            return output.mul_(self.gate.point(seen).sigmoid_())
        return output.mul_(convolve(seen, self.gate.conv_point, then="sigmoid"))


def convolve(x: Tensor, convolution: nn.Conv2d, *, then: str) -> Tensor:
    """Apply a convolution and a function of each element, "relu" or "sigmoid"."""
    fused = torch.ops.mkldnn._convolution_pointwise
    result: Tensor = fused(x, convolution.weight, convolution.bias, *_geometry(convolution), then, [], "")
    return result


def _add_convolution(residual: Tensor, x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Compute `relu(residual + convolution(x))` in place of `residual`."""
    fused = torch.ops.mkldnn._convolution_pointwise_.binary
    weights, geometry = (convolution.weight, convolution.bias), _geometry(convolution)
    result: Tensor = fused(residual, x, *weights, *geometry, "add", None, "relu", [], "")
    return result


def _geometry(convolution: nn.Conv2d) -> tuple[Any, ...]:
    padding = cast(tuple[int, ...], convolution.padding)
    return padding, convolution.stride, convolution.dilation, convolution.groups
