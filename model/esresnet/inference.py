"""Faster evaluation of the backbone without gradients; results are the same up to rounding.

In eval mode a batch norm is a fixed scale and offset per channel, which `folded` moves into the preceding
convolution. On a CPU, where memory bandwidth limits the other operations, `fuse` lets oneDNN apply ReLU,
sigmoid and addition while writing a convolution's output. torch has no public names for those kernels.
"""

import copy
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from .attention import Gate

Network = TypeVar("Network", bound=nn.Module)

_CONVOLUTIONS_AND_NORMS = (
    ("conv1", "bn1"),  # in the stem and in blocks
    ("conv2", "bn2"),
    ("conv3", "bn3"),
    ("0", "1"),  # in a block's `downsample`
    ("conv_point", "bn"),  # in gates
)


def inference_copy(network: Network, dtype: torch.dtype) -> Network:
    """Copy a network in eval mode, fold its batch norms, and fuse its blocks and gates if oneDNN supports it.

    All weights except those of `conv1` are cast to `dtype` once; autocast would cast them in every pass.
    """
    copied = folded(network)
    for name, child in copied.named_children():
        if name != "conv1":  # its input is in decibels, see `ESResNeXt`
            child.to(dtype)
    if can_fuse(next(copied.parameters()).device, dtype):
        fuse(copied)
    return copied


def folded(network: Network) -> Network:
    """Copy a network in eval mode with its batch norms folded into the convolutions before them."""
    network = copy.deepcopy(network).requires_grad_(False)
    for module in network.modules():
        for convolution_name, norm_name in _CONVOLUTIONS_AND_NORMS:
            convolution, norm = getattr(module, convolution_name, None), getattr(module, norm_name, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, convolution_name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())
    return network


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused kernels support `dtype` on `device`."""
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
    """Replace a folded network's gates and bottleneck blocks with fused modules, in place."""
    for name, child in network.named_children():
        if isinstance(child, Bottleneck):
            setattr(network, name, FusedBottleneck(child))
        elif isinstance(child, Gate):
            setattr(network, name, FusedGate(child))
        else:
            fuse(child)


class FusedBottleneck(nn.Module):
    """A folded bottleneck block: `relu(residual + conv3(relu(conv2(relu(conv1(x))))))`.

    Without `downsample`, the residual is the input itself, and the output overwrites the input.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = block.conv1
        self.conv2 = block.conv2
        self.conv3 = block.conv3
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in, H, W]` to `[B, out, H', W']`; both have the weights' dtype."""
        residual = x if self.downsample is None else self.downsample(x)
        x = _convolve(x, self.conv1, then="relu")
        x = F.relu_(self.conv2(x))  # oneDNN's fused kernel can be slower for grouped convolutions
        convolve_and_add = torch.ops.mkldnn._convolution_pointwise_.binary
        weights = (self.conv3.weight, self.conv3.bias)
        output: Tensor = convolve_and_add(
            residual, x, *weights, *_geometry(self.conv3), "add", None, "relu", [], ""
        )
        return output


class FusedGate(nn.Module):
    """A folded gate that multiplies the stage's output in place."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Multiply `output` in place by the gate computed from `x`; shapes are as for `Gate`."""
        size = tuple(output.shape[-2:])
        seen = self.gate.look(x, size=size)
        if size == (1, 1):
            return output.mul_(self.gate.point(seen).sigmoid_())
        return output.mul_(_convolve(seen, self.gate.conv_point, then="sigmoid"))


def _convolve(x: Tensor, convolution: nn.Conv2d, *, then: str) -> Tensor:
    """Apply a convolution, followed by an elementwise function, "relu" or "sigmoid"."""
    fused = torch.ops.mkldnn._convolution_pointwise
    result: Tensor = fused(x, convolution.weight, convolution.bias, *_geometry(convolution), then, [], "")
    return result


def _geometry(convolution: nn.Conv2d) -> tuple[Any, ...]:
    padding = cast(tuple[int, ...], convolution.padding)
    return padding, convolution.stride, convolution.dilation, convolution.groups
