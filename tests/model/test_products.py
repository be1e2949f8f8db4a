"""The wavelet product stays float32, whatever precision the process has asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.esresnet import spectrogram
from model.esresnet.products import products

MATMUL = torch.backends.cuda.matmul


@pytest.fixture(params=["float32_matmul_precision", "allow_tf32", "fp32_precision"])
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow TensorFloat-32 in each of the ways that torch has for it."""
    if request.param == "float32_matmul_precision":
        torch.set_float32_matmul_precision("high")
    elif request.param == "allow_tf32":
        MATMUL.allow_tf32 = True
    else:
        MATMUL.fp32_precision = "tf32"
    yield
    torch.set_float32_matmul_precision("highest")
    MATMUL.fp32_precision = "none"


@pytest.mark.usefixtures("tf32")
def test_a_product_is_computed_in_float32_and_the_process_keeps_its_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    linear = F.linear

    def note(*arguments: Any) -> Tensor:
        seen.append(MATMUL.fp32_precision)
        return linear(*arguments)

    monkeypatch.setattr(F, "linear", note)
    products(torch.randn(5, 7), torch.randn(3, 7), "ieee")
    assert seen == ["ieee"]
    assert MATMUL.fp32_precision == "tf32"


def test_values_and_gradient_are_those_of_a_matrix_product() -> None:
    frames, kernels = torch.randn(2, 4, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    kernels.requires_grad_()
    torch.testing.assert_close(products(frames, kernels, "ieee"), frames @ kernels.T)
    assert torch.autograd.gradcheck(lambda weight: products(frames, weight, "ieee"), (kernels,))
    torch.library.opcheck(products, (frames, kernels, "ieee"))


@pytest.mark.gpu
@pytest.mark.usefixtures("tf32")
def test_decibels_on_a_device_do_not_depend_on_the_precision_of_the_process() -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "bank": torch.randn(2, 1025, 2048, device="cuda"),
        "window": spectrogram.periodic_window("blackmanharris", 1654).cuda(),
        "hop_length": 561,
    }
    audio = torch.randn(4, 1, 220500, device="cuda")
    with_tf32 = spectrogram.wavelet_power(audio, **arguments)
    torch.set_float32_matmul_precision("highest")
    MATMUL.fp32_precision = "none"
    assert torch.equal(with_tf32, spectrogram.wavelet_power(audio, **arguments))
