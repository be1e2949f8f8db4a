"""What the transforms share: operations on padded audio `[B, C, T]` with one number per sample, `[B]`.

The numbers (lengths, offsets) may be on the CPU while the audio is on a device; nothing here waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def windows(values: Tensor, *, start: Tensor, samples: int) -> Tensor:
    """Cut from each clip of `[B, C, T]` the window that begins at `start`, int64 `[B]`: `[B, C, samples]`."""
    rows = torch.arange(len(values), device=values.device)
    return values.unfold(-1, samples, 1)[rows, :, to_device_of(values, start)]


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Read `[B, C, T]` at the positions `index`, int64 `[B, N]`, in every channel: `[B, C, N]`."""
    return values.gather(-1, index[:, None].expand(-1, values.shape[1], -1))


def to_device_of(values: Tensor, numbers: Tensor) -> Tensor:
    """Send one number per sample, `[B]`, to the device of `values`, without waiting for what runs there."""
    return numbers.to(values.device, non_blocking=True)


def column(numbers: Tensor, values: Tensor) -> Tensor:
    """Shape one number per sample, `[B]`, to act on `values`, `[B, C, T]`, on their device."""
    return to_device_of(values, numbers)[:, None, None]


def zero_beyond_(values: Tensor, lengths: Tensor) -> Tensor:
    """Set to zero, in place, what lies beyond each sample's length."""
    if int(lengths.min()) >= values.shape[-1]:  # a pass saved; the lengths are on the CPU
        return values
    position = torch.arange(values.shape[-1], device=values.device)
    return values.masked_fill_(position >= column(lengths, values), 0.0)


def std(values: Tensor, lengths: Tensor) -> Tensor:
    """Unbiased standard deviation over the channels and samples of each clip: `[B]`, NaN for one number."""
    count = to_device_of(values, values.shape[1] * lengths).to(values.dtype)
    mean = values.sum(dim=(1, 2)) / count
    deviation = zero_beyond_(values - mean[:, None, None], lengths)
    return torch.sqrt(deviation.square_().sum(dim=(1, 2)) / (count - 1))
