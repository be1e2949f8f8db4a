"""Framing and power match a numpy reference, decibels are exact, matrix products stay in IEEE float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import get_window
from torch import Tensor

from model.audio_input import read_audio
from model.esresnet import ESResNeXt, spectrogram
from model.esresnet.spectrogram import products

MATMUL = torch.backends.cuda.matmul
RNG = np.random.default_rng


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (99, 1), (100, 1), (101, 2), (130, 2), (131, 3), (160, 3), (161, 4)]
)
def test_frame_count_covers_the_signal(samples: int, frames: int) -> None:
    assert spectrogram.frame_count(samples, win_length=100, hop_length=30) == frames
    padded = spectrogram.pad_to_frames(torch.ones(1, samples), win_length=100, hop_length=30)
    assert padded.shape == (1, (frames - 1) * 30 + 100)
    left = (padded.shape[-1] - samples) // 2
    assert (padded[0, :left] == 0).all()
    assert (padded[0, left : left + samples] == 1).all()
    assert (padded[0, left + samples :] == 0).all()


@pytest.mark.parametrize("name", get_args(spectrogram.Window))
def test_windows_equal_those_of_scipy(name: spectrogram.Window) -> None:
    np.testing.assert_allclose(
        spectrogram.periodic_window(name, 1654), get_window(name, 1654), rtol=0, atol=1e-7
    )


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 'hanning'; allowed are bartlett, blackman, "):
        spectrogram.periodic_window("hanning", 8)  # type: ignore[arg-type]


def test_windows_are_on_the_default_device_also_where_linspace_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = torch.linspace

    def linspace(*args: Any, device: torch.device | str | None = None, **kwargs: Any) -> Tensor:
        return original(*args, device=device or "cpu", **kwargs)

    monkeypatch.setattr(torch, "linspace", linspace)
    for name in get_args(spectrogram.Window):
        with torch.device("meta"):
            assert spectrogram.periodic_window(name, 8).device.type == "meta"


def numpy_frames(audio: np.ndarray, win: int, hop: int, n_fft: int) -> np.ndarray:
    """Cut windowed frames `[N, n_fft]`, zero-padded on both sides, one at a time."""
    count = 1 if len(audio) <= win else 1 + math.ceil((len(audio) - win) / hop)
    missing = (count - 1) * hop + win - len(audio)
    padded = np.pad(audio, (missing // 2, missing - missing // 2))
    window = get_window("hann", win, fftbins=True)
    left = (n_fft - win) // 2
    frames = [
        np.pad(padded[i * hop : i * hop + win] * window, (left, n_fft - win - left)) for i in range(count)
    ]
    return np.stack(frames)


@pytest.mark.parametrize("samples", [7, 50, 51, 200])
@pytest.mark.parametrize("normalized", [True, False])
def test_stft_power_equals_that_of_a_discrete_fourier_transform(samples: int, normalized: bool) -> None:
    audio = RNG(1).standard_normal(samples)
    frames = numpy_frames(audio, win=50, hop=20, n_fft=64)
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(33), np.arange(64)) / 64)
    expected = np.abs(frames @ matrix.T).T ** 2 / (64 if normalized else 1)
    power = spectrogram.stft_power(
        torch.from_numpy(audio)[None, None],
        window=torch.from_numpy(get_window("hann", 50, fftbins=True)),
        n_fft=64,
        hop_length=20,
        normalized=normalized,
    )
    np.testing.assert_allclose(power[0, 0].numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples", [7, 50, 51, 200])
def test_wavelet_power_equals_that_of_complete_padded_frames(samples: int) -> None:
    audio = RNG(2).standard_normal((2, 3, samples))
    bank = RNG(3).standard_normal((2, 5, 64))
    power = spectrogram.wavelet_power(
        torch.from_numpy(audio),
        bank=torch.from_numpy(bank),
        window=torch.from_numpy(get_window("hann", 50, fftbins=True)),
        hop_length=20,
    )
    for b in range(2):
        for c in range(3):
            frames = numpy_frames(audio[b, c], win=50, hop=20, n_fft=64)
            expected = (frames @ bank[0].T) ** 2 + (frames @ bank[1].T) ** 2
            np.testing.assert_allclose(power[b, c].numpy(), expected.T, rtol=1e-9, atol=1e-12)


def test_bands_are_consecutive_thirds_and_the_rest_is_dropped() -> None:
    bands = spectrogram.split_bands(torch.arange(11.0)[:, None])
    assert bands.shape == (3, 3, 1)
    assert bands.flatten().tolist() == list(range(9))


def test_two_sided_puts_the_flipped_spectrum_first() -> None:
    assert spectrogram.two_sided(torch.arange(3.0)[:, None]).flatten().tolist() == [2, 1, 0, 0, 1, 2]


def test_resize_aligns_corners_and_leaves_an_axis_alone_if_its_size_is_not_positive() -> None:
    power = torch.tensor([[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]).expand(1, 1, 3, 2, 3)
    assert spectrogram.resize(power, height=-1, width=0) is power
    wide = spectrogram.resize(power, height=-1, width=5)
    assert wide[0, 0, 1].tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    high = spectrogram.resize(power, height=3, width=-1)
    assert high[0, 0, 2].tolist() == [[0, 2, 4], [3, 5, 7], [6, 8, 10]]


def test_decibels_have_a_floor_only_for_exact_zeros() -> None:
    decibels = spectrogram.decibels(torch.tensor([0.0, 1.0, 100.0, 1e-20], dtype=torch.float64))
    assert decibels.tolist() == pytest.approx([-180.0, 0.0, 20.0, -200.0])


def test_decibels_of_zeros_have_finite_gradients() -> None:
    power = torch.zeros(3, requires_grad=True)
    spectrogram.decibels(power).sum().backward()
    assert power.grad is not None
    assert (power.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_power_and_its_gradient_equal_those_of_windowed_frames(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    audio, window = torch.randn(2, 3, 130, dtype=dtype), torch.rand(20, dtype=dtype)
    bank = torch.randn(2, 7, 32, dtype=dtype).requires_grad_()
    power = spectrogram.wavelet_power(audio, bank=bank, window=window, hop_length=9)
    padded = spectrogram.pad_to_frames(audio, win_length=20, hop_length=9)
    frames = [torch.nn.functional.pad(f * window, (6, 6)) for f in padded.unfold(-1, 20, 9).unbind(-2)]
    spectra = [torch.einsum("bct,zkt->zbck", frame, bank) for frame in frames]
    expected = torch.stack(spectra, dim=-1).square().sum(dim=0)
    torch.testing.assert_close(power, expected, rtol=1e-4, atol=1e-3)
    towards = torch.randn_like(power)
    (ours,), (theirs,) = (torch.autograd.grad(p, [bank], towards) for p in (power, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.fixture(params=["float32_matmul_precision", "allow_tf32", "fp32_precision"])
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow TensorFloat-32 through each of torch's settings in turn."""
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
def test_a_product_is_computed_in_float32_and_the_process_wide_setting_is_kept(
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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_values_and_gradients_equal_those_of_a_matrix_product() -> None:
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
def test_embeddings_of_real_clips_do_not_depend_on_the_process_wide_precision(
    monkeypatch: pytest.MonkeyPatch, real_data: Callable[[str], Path]
) -> None:
    """Emulate TF32 on the CPU: `F.linear` rounds its factors while torch's switch is on."""
    linear, rounds = F.linear, list[bool]()

    def emulated(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rounds.append(MATMUL.fp32_precision == "tf32")
        return linear(rounded(x), rounded(weight), bias) if rounds[-1] else linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", emulated)
    monkeypatch.setattr(spectrogram, "needs_full_precision", lambda _: True)
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
        monkeypatch.setattr(spectrogram, "needs_full_precision", lambda _: False)
        loose = F.normalize(tower(clips), dim=-1)
        # Without full precision, TensorFloat-32 changes the embeddings.
        assert not torch.allclose(loose, plain, rtol=0, atol=1e-5)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
@pytest.mark.usefixtures("tf32")
def test_power_on_a_device_does_not_depend_on_the_process_wide_precision() -> None:
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
