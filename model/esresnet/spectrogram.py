"""Audio to the decibel image of three frequency bands that the audio tower's backbone sees.

Functions of their arguments only; the learned bank comes from fbsp.py, the order from esresnext.py.

Framing, with T samples, frames of `win` samples, `hop` samples apart::

    zeros |------------- T -------------| zeros      padded to (N - 1) * hop + win,
    [---- win ----]                                  half of it (rounded down) on the left
          [---- win ----]
          <-hop->[---- win ----]
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import products, wants_exact_product

POWER_FLOOR = 1e-18
"""What a power of exactly 0 becomes before decibels: -180 dB."""


def periodic_window(name: str | None, length: int) -> Tensor:
    """Make a window of scipy's, `[length]`, of the default dtype, rounded once from float64.

    Args:
        name: None: rectangular.
        length: samples, which are one period.

    Raises:
        ValueError: scipy has no window of this name.
    """
    if name is None:
        return torch.ones(length)
    from scipy.signal import get_window  # noqa: PLC0415 - takes seconds

    try:
        window = get_window(name, length, fftbins=True)
    except ValueError as error:
        raise ValueError(f"window is {name!r}, not a window of scipy.signal.get_window: {error}") from None
    return torch.from_numpy(window).to(torch.get_default_dtype())


def frame_count(samples: int, *, win_length: int, hop_length: int) -> int:
    """Count the frames N that cover a signal: 1 if it fits into one, else 1 + ceil((T - win) / hop)."""
    return 1 + max(0, math.ceil((samples - win_length) / hop_length))


def pad_to_frames(audio: Tensor, *, win_length: int, hop_length: int) -> Tensor:
    """Zero-pad `[..., T]` on both sides to `[..., (N - 1) * hop + win]`, the odd sample on the right."""
    frames = frame_count(audio.shape[-1], win_length=win_length, hop_length=hop_length)
    missing = (frames - 1) * hop_length + win_length - audio.shape[-1]
    return F.pad(audio, (missing // 2, missing - missing // 2))


def wavelet_power(
    audio: Tensor, *, bank: Tensor, window: Tensor, hop_length: int, gradient_precision: str = "ieee"
) -> Tensor:
    """Measure the power of each frame under each wavelet.

    Frames would be windowed and zero-padded to the wavelets' length, `(taps - win) // 2` on the left: so
    only `win` taps of each wavelet matter. The window multiplies the frames, which have to be copied anyway.
    Zeros extend them to a multiple of 32, the lengths that CUDA's matrix products are fastest for.

    Args:
        audio: `[..., T]` in [-1, 1], the bank's dtype.
        bank: `[2, K, taps]`, real and imaginary part.
        window: `[win]`, no longer than the wavelets.
        hop_length: samples between frames.
        gradient_precision: precision of the bank's gradient on CUDA, "ieee" or "tf32".

    Returns:
        `[..., K, N]`.
    """
    win_length, (bins, taps) = window.shape[0], bank.shape[1:]
    left = (taps - win_length) // 2
    extra = min(-win_length % 32, taps - left - win_length)
    kernels = bank[:, :, left : left + win_length + extra].flatten(0, 1)  # [2K, win + extra]
    padded = F.pad(pad_to_frames(audio, win_length=win_length, hop_length=hop_length), (0, extra))
    frames = padded.unfold(-1, win_length + extra, hop_length) * F.pad(window, (0, extra))  # [..., N, win...]
    found = _products(frames, kernels, gradient_precision)
    real, imaginary = found.unflatten(-1, (2, bins)).unbind(-2)  # [..., N, K]
    return torch.addcmul(real.square(), imaginary, imaginary).transpose(-1, -2)


def _products(frames: Tensor, kernels: Tensor, gradient_precision: str) -> Tensor:
    """Multiply each of `frames` `[..., win]` with each of `kernels` `[k, win]`: `[..., k]`."""
    if wants_exact_product(frames):
        product: Tensor = products(frames, kernels, gradient_precision)
        return product
    if frames.device.type != "cpu" or frames.dtype != torch.float32:
        return F.linear(frames, kernels)
    # A matrix product is MKL's, which took twice as long as oneDNN's convolution where it was measured.
    pixels = frames.reshape(1, 1, -1, frames.shape[-1]).permute(0, 3, 1, 2)  # [1, win, 1, ...]
    convolved = F.conv2d(pixels, kernels[..., None, None])  # [1, k, 1, ...]
    return convolved.permute(0, 2, 3, 1).reshape(*frames.shape[:-1], -1)


def stft_power(audio: Tensor, *, window: Tensor, n_fft: int, hop_length: int, normalized: bool) -> Tensor:
    """Measure the power of each frame in each bin of the discrete Fourier transform.

    Frames, window and padding are those of `wavelet_power`.

    Args:
        audio: `[..., T]` in [-1, 1], the window's dtype.
        window: `[win]`, `win <= n_fft`.
        n_fft: length of the transform, samples.
        hop_length: samples between frames.
        normalized: divide the spectrum by sqrt(n_fft).

    Returns:
        `[..., n_fft // 2 + 1, N]`.
    """
    win_length = window.shape[0]
    padded = pad_to_frames(audio, win_length=win_length, hop_length=hop_length)
    left = (n_fft - win_length) // 2  # torch.stft frames n_fft samples and centres the window in them
    spectrum = torch.stft(
        F.pad(padded, (left, n_fft - win_length - left)).flatten(0, -2),
        n_fft,
        hop_length,
        win_length,
        window=window,
        center=False,
        normalized=normalized,
        return_complex=True,
    )
    power: Tensor = (spectrum.real.square() + spectrum.imag.square()).unflatten(0, audio.shape[:-1])
    return power


def two_sided(power: Tensor) -> Tensor:
    """Put the flipped spectrum before the spectrum: `[..., K, N] -> [..., 2K, N]`, as published."""
    return torch.cat((power.flip(-2), power), dim=-2)


def split_bands(power: Tensor) -> Tensor:
    """Cut the first 3 * (K // 3) bins into three "colour" planes: `[..., K, N] -> [..., 3, K // 3, N]`."""
    band = power.shape[-2] // 3
    bands: Tensor = power[..., : 3 * band, :].unflatten(-2, (3, band))
    return bands


def resize(power: Tensor, *, height: int, width: int) -> Tensor:
    """Resize `[B, C, 3, H, W]` bilinearly, corners aligned; a size that is not positive stays as it is."""
    size = (height if height > 0 else power.shape[-2], width if width > 0 else power.shape[-1])
    if size == tuple(power.shape[-2:]):
        return power
    resized = F.interpolate(power.flatten(0, 1), size=size, mode="bilinear", align_corners=True)
    unflattened: Tensor = resized.unflatten(0, power.shape[:2])
    return unflattened


def decibels(power: Tensor) -> Tensor:
    """Convert power to decibels, `10 log10`; exact zeros become -180 dB."""
    # A power is not negative: what is not above 0 is 0.
    return torch.log10(F.threshold(power, 0.0, POWER_FLOOR)).mul_(10.0)
