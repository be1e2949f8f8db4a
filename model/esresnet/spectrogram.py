"""Turns audio into the backbone's input, an image of three frequency bands in decibels.

The functions are pure; esresnext.py calls them in order and passes in the learned wavelets from fbsp.py.
Below them are a convolution and matrix products that keep float32 precision regardless of torch's precision
flags, because decibels need it.

Framing of T samples into N frames of `win` samples, `hop` samples apart::

    zeros |------------- T -------------| zeros      padded to (N - 1) * hop + win,
    [---- win ----]                                  half the zeros (rounded down) on the left
          [---- win ----]
          <-hop->[---- win ----]
"""

import math
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.signal import windows

POWER_FLOOR = 1e-18
"""Power that replaces exact zeros before the conversion to decibels, -180 dB."""

Window = Literal["bartlett", "blackman", "blackmanharris", "cosine", "hamming", "hann", "nuttall"]
"""Name of a window: the one of four terms by Blackman and Harris, or one in `torch.signal.windows`."""

_BLACKMAN_HARRIS = (0.35875, 0.48829, 0.14128, 0.01168)  # 4 terms, -92 dB (Harris 1978)


def periodic_window(name: Window | None, length: int) -> Tensor:
    """Create a periodic window of the default dtype, rounded once from float64.

    Args:
        name: name of the window; None for a rectangular window.
        length: period of the window, samples.

    Returns:
        Window `[length]`.

    Raises:
        ValueError: There is no window with this name.
    """
    if name is None:
        return torch.ones(length)
    if name not in get_args(Window):
        raise ValueError(f"window is {name!r}; allowed are {', '.join(get_args(Window))}, and None.")
    # transformers leaves torch.linspace on the CPU under torch.device("meta"), unless the device is named
    device, dtype = torch.get_default_device(), torch.float64
    if name == "blackmanharris":
        window = windows.general_cosine(length, a=_BLACKMAN_HARRIS, sym=False, dtype=dtype, device=device)
    else:
        window = getattr(windows, name)(length, sym=False, dtype=dtype, device=device)
    return window.to(torch.get_default_dtype())


def frame_count(samples: int, *, win_length: int, hop_length: int) -> int:
    """Return the number of frames N that cover a signal: `1 + max(0, ceil((T - win) / hop))`."""
    return 1 + max(0, math.ceil((samples - win_length) / hop_length))


def pad_to_frames(audio: Tensor, *, win_length: int, hop_length: int) -> Tensor:
    """Zero-pad `[..., T]` on both sides to `[..., (N - 1) * hop + win]`.

    If the number of zeros is odd, the right side gets one more.
    """
    frames = frame_count(audio.shape[-1], win_length=win_length, hop_length=hop_length)
    missing = (frames - 1) * hop_length + win_length - audio.shape[-1]
    return F.pad(audio, (missing // 2, missing - missing // 2))


def wavelet_power(
    audio: Tensor, *, bank: Tensor, window: Tensor, hop_length: int, gradient_precision: str = "ieee"
) -> Tensor:
    """Compute the power of each frame's response to each wavelet, `|<window * frame, wavelet>| ** 2`.

    A frame lies in the middle of the wavelet, `(taps - win) // 2` taps from its start, so only `win` taps of
    each wavelet are used. Frames are zero-padded to a multiple of 32 samples, for which CUDA's matrix
    products are fastest.

    Args:
        audio: samples `[..., T]` in [-1, 1], of the bank's dtype.
        bank: real and imaginary parts of the wavelets, `[2, K, taps]`.
        window: window `[win]`, with `win <= taps`.
        hop_length: distance between frames, samples.
        gradient_precision: precision of the bank's gradient on CUDA, "ieee" or "tf32".

    Returns:
        Power `[..., K, N]`.
    """
    win_length, (bins, taps) = window.shape[0], bank.shape[1:]
    left = (taps - win_length) // 2
    extra = min(-win_length % 32, taps - left - win_length)
    kernels = bank[:, :, left : left + win_length + extra].flatten(0, 1)  # [2K, win + extra]
    padded = F.pad(pad_to_frames(audio, win_length=win_length, hop_length=hop_length), (0, extra))
    frames = padded.unfold(-1, win_length + extra, hop_length) * F.pad(window, (0, extra))  # [..., N, win...]
    spectrum = _multiply_frames(frames, kernels, gradient_precision)
    real, imaginary = spectrum.unflatten(-1, (2, bins)).unbind(-2)  # [..., N, K]
    return torch.addcmul(real.square(), imaginary, imaginary).transpose(-1, -2)


def _multiply_frames(frames: Tensor, kernels: Tensor, gradient_precision: str) -> Tensor:
    """Multiply `frames` `[..., win]` by `kernels` `[k, win]`; return `[..., k]`."""
    if needs_full_precision(frames):
        product: Tensor = products(frames, kernels, gradient_precision)
        return product
    if frames.device.type != "cpu" or frames.dtype != torch.float32:
        return F.linear(frames, kernels)
    # oneDNN computes a 1x1 convolution, which took half as long as MKL's matrix product.
    pixels = frames.reshape(1, 1, -1, frames.shape[-1]).permute(0, 3, 1, 2)  # [1, win, 1, ...]
    convolved = F.conv2d(pixels, kernels[..., None, None])  # [1, k, 1, ...]
    return convolved.permute(0, 2, 3, 1).reshape(*frames.shape[:-1], -1)


def stft_power(audio: Tensor, *, window: Tensor, n_fft: int, hop_length: int, normalized: bool) -> Tensor:
    """Compute the power spectrogram, with frames, window and padding as in `wavelet_power`.

    Args:
        audio: samples `[..., T]` in [-1, 1], of the window's dtype.
        window: window `[win]`, with `win <= n_fft`.
        n_fft: length of the transform, samples.
        hop_length: distance between frames, samples.
        normalized: whether to divide the spectrum by sqrt(n_fft).

    Returns:
        Power `[..., n_fft // 2 + 1, N]`.
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
    """Prepend the flipped spectrum, as published: `[..., K, N] -> [..., 2K, N]`."""
    return torch.cat((power.flip(-2), power), dim=-2)


def split_bands(power: Tensor) -> Tensor:
    """Split the first 3 * (K // 3) bins into three "colour" planes: `[..., K, N] -> [..., 3, K // 3, N]`."""
    band = power.shape[-2] // 3
    bands: Tensor = power[..., : 3 * band, :].unflatten(-2, (3, band))
    return bands


def resize(power: Tensor, *, height: int, width: int) -> Tensor:
    """Resize `[B, C, 3, H, W]` bilinearly with corners aligned; a size below 1 keeps that side."""
    size = (height if height > 0 else power.shape[-2], width if width > 0 else power.shape[-1])
    if size == tuple(power.shape[-2:]):
        return power
    resized = F.interpolate(power.flatten(0, 1), size=size, mode="bilinear", align_corners=True)
    unflattened: Tensor = resized.unflatten(0, power.shape[:2])
    return unflattened


def decibels(power: Tensor) -> Tensor:
    """Convert non-negative power to decibels, `10 log10`; exact zeros become -180 dB."""
    return torch.log10(F.threshold(power, 0.0, POWER_FLOOR)).mul_(10.0)


def convolve_in_parts(image: Tensor, convolution: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """Convolve a float32 image with 16-bit weights without rounding the image to 16 bits.

    The image is split into three parts: its mean level, the deviation from that level rounded to 16 bits, and
    the remainder. The mean level would dominate the rounding error, so it is convolved in float32, as a
    multiple of the response to a constant image. The other two parts are stacked as channels and convolved
    with the same weights. Tensor cores need a multiple of eight channels, so zeros fill up the rest.

    Args:
        image: float32 `[B, 3, H, W]`.
        convolution: convolution with three input channels and one group.
        dtype: 16-bit dtype, bfloat16 or float16.

    Returns:
        float32 `[B, out, H', W']`.
    """
    level = image.detach().mean(dim=(1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
    deviation = image - level
    high = deviation.to(dtype)
    low = (deviation - high).detach().to(dtype)
    fill = (0, 0, 0, 0, 0, -2 * image.shape[1] % 8)
    parts = F.pad(torch.cat((high, low), dim=1), fill).contiguous(memory_format=torch.channels_last)
    weight = convolution.weight.to(dtype)
    weights = F.pad(torch.cat((weight, weight), dim=1), fill).contiguous(memory_format=torch.channels_last)
    stride, padding = convolution.stride, cast(tuple[int, int], convolution.padding)
    response = F.conv2d(torch.ones_like(image[:1]), convolution.weight, None, stride, padding)
    convolved = F.conv2d(parts, weights, None, stride, padding) + level * response
    return convolved if convolution.bias is None else convolved + convolution.bias[:, None, None]


class ExactLinear(nn.Linear):
    """A linear layer in IEEE float32 on CUDA, except under autocast.

    The inputs are means over whole clips. TensorFloat-32 would change the fourth digit of an embedding.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map `[..., in]` to `[..., out]`."""
        return exact_linear(input, self.weight, self.bias)


def exact_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear`, with IEEE precision for float32 on CUDA outside autocast."""
    if not needs_full_precision(x):
        return F.linear(x, weight, bias)
    product: Tensor = products(x, weight, "ieee")
    return product if bias is None else product + bias


def needs_full_precision(x: Tensor) -> bool:
    """Return whether torch's flags could reduce the precision: float32 on CUDA, without autocast."""
    return x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


@torch.library.custom_op("audioclip::products", mutates_args=())
def products(rows: Tensor, kernels: Tensor, gradient_precision: str, precision: str = "ieee") -> Tensor:
    """Multiply float32 matrices with a given precision, whatever torch's global flags say.

    TensorFloat-32 keeps 10 bits of each factor, an error of tens of dB in quiet bins.

    Args:
        rows: float32 `[..., n]`.
        kernels: float32 `[k, n]`.
        gradient_precision: precision of the products in the backward pass, "ieee" or "tf32".
        precision: precision of this product, "ieee" or "tf32".

    Returns:
        float32 `[..., k]`.
    """
    del gradient_precision
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        return F.linear(rows, kernels)
    finally:
        matmul.fp32_precision = before


@products.register_fake
def _(rows: Tensor, kernels: Tensor, gradient_precision: str, precision: str = "ieee") -> Tensor:  # noqa: ARG001
    return rows.new_empty((*rows.shape[:-1], kernels.shape[0]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, str, str], output: Tensor) -> None:  # noqa: ARG001
    rows, kernels, ctx.precision, _ = inputs
    ctx.save_for_backward(rows, kernels)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    rows, kernels = ctx.saved_tensors
    by_rows = by_kernels = None
    if ctx.needs_input_grad[0]:
        by_rows = products(gradient, kernels.T, ctx.precision, ctx.precision)
    if ctx.needs_input_grad[1]:
        flat, flat_rows = gradient.flatten(0, -2), rows.flatten(0, -2)
        by_kernels = products(flat.T, flat_rows.T, ctx.precision, ctx.precision)
    return by_rows, by_kernels, None, None


products.register_autograd(_backward, setup_context=_save)
