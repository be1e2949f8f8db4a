"""Gates equal their formula; our pooling and depthwise convolutions equal torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.esresnet.attention import Gate, max_pool_to, shifted_sums


@torch.no_grad()
def test_gate_is_the_sigmoid_of_pooled_and_convolved_input() -> None:
    torch.manual_seed(0)
    gate = Gate(4, 6, kernel_size=(1, 5)).eval()
    x = torch.randn(2, 4, 7, 9)
    pooled = torch.nn.functional.adaptive_max_pool2d(x, (4, 5))
    padded = torch.nn.functional.pad(pooled, (2, 2))
    depth = gate.conv_depth.weight[:, 0, 0]  # [4, 5]
    columns = torch.stack([(padded[..., i : i + 5] * depth[:, None, :]).sum(-1) for i in range(5)], dim=-1)
    assert gate.conv_depth.bias is not None and gate.conv_point.bias is not None
    columns = columns + gate.conv_depth.bias[:, None, None]
    point = torch.einsum("oi,bihw->bohw", gate.conv_point.weight[..., 0, 0], columns)
    point = point + gate.conv_point.bias[:, None, None]
    opening = torch.sigmoid(point / (1 + 1e-5) ** 0.5)  # batch norm with mean 0 and variance 1
    output = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(gate(x, output), output * opening)


@pytest.mark.parametrize("kernel_size", [(1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("size", [(7, 9), (4, 5), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_gate_and_its_gradients_equal_those_of_its_modules(
    kernel_size: tuple[int, int], size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    gate = Gate(4, 6, kernel_size=kernel_size).double()
    x = torch.randn(3, 4, 7, 9, dtype=torch.float64).contiguous(memory_format=memory_format)
    output = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    inputs = [x.requires_grad_(), output.requires_grad_(), *gate.parameters()]
    pooled = torch.nn.functional.adaptive_max_pool2d(x, size)
    expected = output * torch.sigmoid(gate.bn(gate.conv_point(gate.conv_depth(pooled))))
    gated = gate(x, output)
    torch.testing.assert_close(gated, expected)
    towards = torch.randn_like(gated)
    ours, theirs = (torch.autograd.grad(y, inputs, towards) for y in (gated, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def halved(length: int) -> int:
    return (length + 1) // 2


def check_pooling(x: Tensor, size: tuple[int, int]) -> None:
    """Compare outputs and gradients bit for bit."""
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = max_pool_to(found, size), F.adaptive_max_pool2d(expected, size)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(ours)
    ours.backward(weight)
    theirs.backward(weight)
    assert found.grad is not None and expected.grad is not None
    assert torch.equal(found.grad, expected.grad)


# Numbers of frames in clips of 0.25 s, 0.5 s, 1 s, 4 s and 5 s.
@pytest.mark.parametrize("frames", [18, 38, 77, 313, 392])
@pytest.mark.parametrize("height", [341, 21, 85, 170])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_and_reducing_to_one_equal_adaptive_pooling(
    height: int, frames: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    height, frames = halved(halved(height)), halved(halved(frames))
    for _ in range(3):
        # With small integers, most windows have ties, where the first element gets the gradient.
        x = torch.randint(0, 4, (2, 8, height, frames)).float().contiguous(memory_format=layout)
        check_pooling(x, (halved(height), halved(frames)))
        check_pooling(x, (1, 1))
        check_pooling(x, (height, halved(frames)))
        height, frames = halved(height), halved(frames)


@pytest.mark.parametrize("length", range(2, 30))
def test_pooling_to_any_size_equals_adaptive_pooling(length: int) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 4, (1, 2, length, 2 * length)).float()
    for size in range(1, length + 1):
        check_pooling(x, (size, size))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_non_finite_values_are_pooled_as_in_torch(value: float) -> None:
    x = torch.randn(1, 1, 6, 7)
    x[0, 0, 2, 3] = value
    x[0, 0, :2, :2] = -torch.inf
    assert torch.equal(max_pool_to(x, (3, 4)).nan_to_num(99), F.adaptive_max_pool2d(x, (3, 4)).nan_to_num(99))


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (3, 5)])
def test_shifted_sums_equal_a_depthwise_convolution(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, padding="same", groups=6).double()
    results = []
    for shifted in (True, False):
        x = torch.randn(2, 6, 7, 9, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        conv.zero_grad()
        output = shifted_sums(x, conv.weight, conv.bias) if shifted else conv(x)
        output.square().sum().backward()
        results.append([output, x.grad, conv.weight.grad, conv.bias.grad])  # type: ignore[union-attr]
    torch.testing.assert_close(*results)


def test_shifted_sums_keep_the_dtype_of_their_input_and_add_up_in_float32() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 30, 30).bfloat16(), torch.randn(4, 1, 3, 5)
    found = shifted_sums(x, weight)
    exact = F.conv2d(x.double(), weight.double(), padding="same", groups=4)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))  # rounded once
