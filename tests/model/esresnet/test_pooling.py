"""Gates pool by `max_pool2d` wherever that equals adaptive pooling, ties and gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.esresnet.attention import max_pool_to


def halved(length: int) -> int:
    return (length + 1) // 2


def compared(x: Tensor, size: tuple[int, int]) -> None:
    """Outputs and gradients, bit for bit."""
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = max_pool_to(found, size), F.adaptive_max_pool2d(expected, size)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(ours)
    ours.backward(weight)
    theirs.backward(weight)
    assert found.grad is not None and expected.grad is not None
    assert torch.equal(found.grad, expected.grad)


# Frames of clips of 0.25 s, 0.5 s, 1 s, 4 s and 5 s, and of the short windows of the small protocols.
@pytest.mark.parametrize("frames", [18, 38, 77, 313, 392])
@pytest.mark.parametrize("height", [341, 21, 85, 170])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_and_reducing_to_one(height: int, frames: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    height, frames = halved(halved(height)), halved(halved(frames))
    for _ in range(3):
        # Small whole numbers: most windows have ties, of which the first element gets the gradient.
        x = torch.randint(0, 4, (2, 8, height, frames)).float().contiguous(memory_format=layout)
        compared(x, (halved(height), halved(frames)))
        compared(x, (1, 1))
        compared(x, (height, halved(frames)))
        height, frames = halved(height), halved(frames)


@pytest.mark.parametrize("length", range(2, 30))
def test_no_size_is_pooled_otherwise_than_adaptively(length: int) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 4, (1, 2, length, 2 * length)).float()
    for size in range(1, length + 1):
        compared(x, (size, size))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_what_is_not_finite_is_pooled_alike(value: float) -> None:
    x = torch.randn(1, 1, 6, 7)
    x[0, 0, 2, 3] = value
    x[0, 0, :2, :2] = -torch.inf
    assert torch.equal(max_pool_to(x, (3, 4)).nan_to_num(99), F.adaptive_max_pool2d(x, (3, 4)).nan_to_num(99))
