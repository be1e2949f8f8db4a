"""Computations that the audio tower does differently on CUDA, compared on the CPU with plain operations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.esresnet.attention import shifted_sums
from model.esresnet.esresnext import convolve_in_halves


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (3, 5)])
def test_shifted_sums_are_a_depthwise_convolution(kernel: tuple[int, int]) -> None:
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


def test_shifted_sums_keep_the_type_of_their_input_and_add_up_in_float32() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 30, 30).bfloat16(), torch.randn(4, 1, 3, 5)
    found = shifted_sums(x, weight)
    exact = F.conv2d(x.double(), weight.double(), padding="same", groups=4)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))  # rounded once


def decibel_image() -> Tensor:
    """Decibels around -60, as of a quiet clip."""
    return 12.0 * torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) - 60.0


@pytest.mark.parametrize("bias", [True, False])
def test_an_image_in_halves_is_convolved_with_a_small_part_of_the_error(bias: bool) -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=bias)
    image = decibel_image()
    rounded = copy.deepcopy(convolution).bfloat16()(image.bfloat16()).double()
    reference = copy.deepcopy(convolution).double()(image.double())
    found = convolve_in_halves(image, convolution, torch.bfloat16)
    assert found.dtype == torch.float32
    spread = (reference - reference.mean(dim=(0, 2, 3), keepdim=True)).norm()  # what batch norm leaves of it
    assert (found - reference).norm() < 0.01 * spread
    assert (rounded - reference).norm() > 5 * (found - reference).norm()


def test_gradients_through_halves_are_those_of_the_convolution() -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
    gradients = []
    for halves in (True, False):
        image = decibel_image().requires_grad_()
        convolution.zero_grad()
        output = convolve_in_halves(image, convolution, torch.bfloat16) if halves else convolution(image)
        (output * torch.sin(torch.arange(output.numel())).view(output.shape)).sum().backward()
        gradients.append([image.grad, convolution.weight.grad])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() < 0.01 * other.norm()


def test_an_image_in_halves_does_not_depend_on_the_others_of_its_batch() -> None:
    torch.manual_seed(1)
    convolution, image = nn.Conv2d(3, 16, 7, stride=2, padding=3), decibel_image()
    alone = convolve_in_halves(image[:1], convolution, torch.bfloat16)
    image[1] = torch.nan
    torch.testing.assert_close(convolve_in_halves(image, convolution, torch.bfloat16)[:1], alone)
