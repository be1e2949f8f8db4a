"""The wavelet product stays float32, whatever precision the process has asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.audio_input import read_audio
from model.esresnet import ESResNeXt, spectrogram
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
    frames.requires_grad_()
    kernels.requires_grad_()
    torch.testing.assert_close(products(frames, kernels, "ieee"), frames @ kernels.T)
    assert torch.autograd.gradcheck(lambda *factors: products(*factors, "ieee"), (frames, kernels))
    torch.library.opcheck(products, (frames, kernels, "ieee"))


def rounded(x: Tensor) -> Tensor:
    """Round float32 to the 10 bits of TensorFloat-32."""
    bits: Tensor = (x.detach().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)


@pytest.mark.real_data
@torch.no_grad()
def test_embeddings_of_real_clips_do_not_depend_on_the_precision_of_the_process(
    monkeypatch: pytest.MonkeyPatch, real_data: Callable[[str], Path]
) -> None:
    """TF32 emulated on the CPU: `F.linear` rounds its factors when torch's switch says so at that moment."""
    linear, rounds = F.linear, list[bool]()

    def emulated(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rounds.append(MATMUL.fp32_precision == "tf32")
        return linear(rounded(x), rounded(weight), bias) if rounds[-1] else linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", emulated)
    for module in ("products", "spectrogram"):
        monkeypatch.setattr(f"model.esresnet.{module}.wants_exact_product", lambda _: True)
    torch.manual_seed(0)
    tower = ESResNeXt(num_classes=1024).eval()
    files = sorted((real_data("esc18") / "audio").iterdir())[::72]
    clips = torch.stack([torch.from_numpy(read_audio(file, 44100)[:1, :88200]) for file in files])
    assert len(clips) == 10
    plain = F.normalize(tower(clips), dim=-1)
    torch.set_float32_matmul_precision("high")
    try:
        with_tf32 = F.normalize(tower(clips), dim=-1)
        assert rounds == [False] * 6  # wavelets, the last gate and the output, twice
        torch.testing.assert_close(with_tf32, plain, rtol=0, atol=1e-5)
        monkeypatch.setattr("model.esresnet.products.wants_exact_product", lambda _: False)
        monkeypatch.setattr("model.esresnet.spectrogram.wants_exact_product", lambda _: False)
        loose = F.normalize(tower(clips), dim=-1)
        assert not torch.allclose(loose, plain, rtol=0, atol=1e-5)  # what this guards against
    finally:
        torch.set_float32_matmul_precision("highest")


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
