"""ESResNeXt's time-frequency gates, one for each stage of the backbone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .spectrogram import exact_linear


class Gate(nn.Module):
    """Scales each element of a stage's output by a factor in (0, 1), computed from the stage's input.

        x [B, in, H, W] -> adaptive max pool -> depthwise conv -> 1x1 conv -> batch norm -> sigmoid

    See arXiv 2004.07301 and 2104.11587. Kernels along frequency and along time alternate between stages.

    Args:
        in_channels: number of channels in the stage's input.
        out_channels: number of channels in the stage's output.
        kernel_size: (frequency, time) size of the depthwise convolution's kernel; both odd.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv_depth = nn.Conv2d(in_channels, in_channels, kernel_size, padding="same", groups=in_channels)
        self.conv_point = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: the stage's input, `[B, in_channels, H, W]`.
            output: the stage's output, `[B, out_channels, H', W']`, with H' <= H and W' <= W.

        Returns:
            Gated output with the shape of `output`.
        """
        logits = self.bn(self.point(self.look(x, size=tuple(output.shape[-2:]))))
        if torch.compiler.is_compiling():  # the compiler manages its own buffers
            return output * torch.sigmoid(logits)
        gated: Tensor = _Gated.apply(output, logits)
        return gated

    def look(self, x: Tensor, *, size: tuple[int, ...]) -> Tensor:
        """Pool `x` to `size` and apply `conv_depth`; return `[B, in_channels, *size]`."""
        if tuple(x.shape[-2:]) != size:
            x = max_pool_to(x, size)
        conv = self.conv_depth
        if size == (1, 1):  # only the middle element of each kernel meets the pixel
            assert conv.bias is not None, "a gate's convolutions have biases"
            height, width = conv.kernel_size
            middle = conv.weight[:, 0, height // 2, width // 2]
            return torch.addcmul(conv.bias[:, None, None], x, middle[:, None, None])
        if torch.compiler.is_compiling() and x.is_cuda:
            return shifted_sums(x, conv.weight, conv.bias)
        if conv.kernel_size[0] != 1 or x.device.type != "cpu":
            convolved: Tensor = conv(x)
            return convolved
        # On the CPU, the weight gradient of kernels of height 1 and width 5 takes fifty times as long as it
        # should, so use time as the height. In channels-last memory format this view is free.
        rotated = x.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(2)  # [B*H, W, 1, C]
        rotated = F.conv2d(
            rotated.permute(0, 3, 1, 2), conv.weight.mT, conv.bias, padding="same", groups=conv.groups
        )  # [B*H, C, W, 1]
        rows: Tensor = rotated.squeeze(3).unflatten(0, (x.shape[0], x.shape[2]))
        return rows.permute(0, 2, 1, 3)

    def point(self, seen: Tensor) -> Tensor:
        """Apply `conv_point`, from `[B, in_channels, H, W]` to `[B, out_channels, H, W]`."""
        if tuple(seen.shape[-2:]) == (1, 1):  # a matrix product is several times faster here
            conv = self.conv_point
            return exact_linear(seen.flatten(1), conv.weight.flatten(1), conv.bias)[..., None, None]
        convolved: Tensor = self.conv_point(seen)
        return convolved


def max_pool_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pool `[B, C, H, W]` to `[B, C, *size]` exactly as `adaptive_max_pool2d` does, gradients included.

    If each side is kept, halved (rounding up) or reduced to 1, the windows are regular. `max_pool2d` then
    does the pooling; it has channels-last kernels on CUDA and can be compiled.
    """
    if size == (1, 1) and not x.is_cuda:  # max_pool2d is several times slower here on the CPU
        return F.adaptive_max_pool2d(x, size)
    windows = [_window(length, to) for length, to in zip(x.shape[-2:], size, strict=True)]
    regular = [window for window in windows if window is not None]
    if len(regular) < len(windows):
        return F.adaptive_max_pool2d(x, size)
    kernel, stride, padding = zip(*regular, strict=True)
    return F.max_pool2d(x, kernel, stride, padding)


def _window(length: int, size: int) -> tuple[int, int, int] | None:
    """Return kernel, stride and padding for pooling from `length` to `size`; None if irregular."""
    if size == length:
        return 1, 1, 0
    if size == 1:
        return length, length, 0
    if size == (length + 1) // 2:
        return (3, 2, 1) if length % 2 else (2, 2, 0)
    return None


def shifted_sums(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a depthwise convolution with "same" padding as a sum of shifted copies of `x`.

    The sum is computed in the weights' dtype, and the result has the dtype of `x`. When compiled, this takes
    one pass over memory. cuDNN's channels-last kernel took 1.3 ms on an H200 for 64 clips with 256
    channels of 43 x 49, far longer than one pass.
    """
    rows, columns = weight.shape[-2:]
    height, width = x.shape[-2:]
    padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2))
    total = torch.zeros((), device=x.device) if bias is None else bias[:, None, None]
    for row in range(rows):
        for column in range(columns):
            shifted = padded[..., row : row + height, column : column + width]
            total = total + shifted * weight[:, 0, row, column, None, None]
    return total.to(x.dtype)


class _Gated(torch.autograd.Function):
    """`output * sigmoid(logits)` with one buffer each for the sigmoid and its gradient.

    Allocation dominates the cost, because buffers of this size return to the operating system and are mapped
    again page by page.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, logits: Tensor) -> Tensor:
        gate = torch.sigmoid(logits)
        if not any(ctx.needs_input_grad):
            return gate.mul_(output)
        ctx.save_for_backward(output, gate)
        return output * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        output, gate = ctx.saved_tensors
        along_gate = gradient * output
        torch.ops.aten.sigmoid_backward.grad_input(along_gate, gate, grad_input=along_gate)
        return gradient * gate, along_gate
