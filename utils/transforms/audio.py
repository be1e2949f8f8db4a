"""Transforms of audio clips `[C, T]`, single or in batches.

Each sample has its own random stream, which makes every random decision about it (selection, factor, offset,
SNR). Decisions are made on the CPU, where the lengths are. The audio stays on its device and is never waited
for; `RandomCrop` therefore evaluates its rule for quiet crops on the device.

In drawings, `=` is audio, `-` is a repeated edge value, and `.` is zero padding beyond the clip's length.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import add_noise

from ignite_trainer.api.batch import BatchTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms.clips import (
    check_range_db,
    checked_clips,
    checked_length,
    checked_probability,
    column,
    is_number,
    to_device_of,
    windows,
    zero_beyond_,
)

FlipAxis = Literal["channel", "time"]


class ToTensor1D(BatchTransform):
    """Convert audio to a float tensor `[C, T]` without rescaling: 16-bit integers stay in 16-bit units.

    Accepts a tensor or a numpy array of any real dtype and shape `[T]` (one channel) or `[C, T]`; a batch has
    shape `[B, T]` or `[B, C, T]`. float64 stays float64, and any other dtype becomes float32. Arrays are
    copied.
    """

    def __call__(self, sample: Tensor | npt.NDArray[Any], random: SampleRandom | None = None) -> Tensor:
        """Convert one clip; raise ValueError unless it has one or two axes."""
        if isinstance(sample, np.ndarray):
            dtype = np.float64 if sample.dtype == np.float64 else np.float32
            # torch rejects read-only and reversed arrays, so copy
            sample = torch.from_numpy(np.array(sample, dtype=dtype, order="C"))
        if sample.ndim not in {1, 2}:
            raise ValueError(f"sample has shape {list(sample.shape)}; a clip must be [T] or [C, T].")
        return super().__call__(sample, random)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Convert every clip."""
        values = batch.values if batch.values.dtype == torch.float64 else batch.values.float()
        if values.ndim == 2:
            values = values[:, None]  # [B, T] -> [B, 1, T]
        return PaddedBatch(checked_clips(values), batch.lengths)


class RandomFlip(BatchTransform):
    """Reverse the order of the channels, or reverse time.

    Flipping the channels, the published default, swaps left and right of a stereo clip and leaves a mono clip
    unchanged. The published code flipped time instead when given a batch; here `axis` decides for both clips
    and batches.

    Args:
        p: probability of flipping a clip, 0..1.
        axis: axis to flip, "channel" or "time".
    """

    def __init__(self, p: float = 0.5, axis: FlipAxis = "channel") -> None:
        self.p = checked_probability(p)
        if axis not in get_args(FlipAxis):
            raise ValueError(f'axis is {axis!r}; it must be "channel" or "time".')
        self.axis = axis

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Flip the chosen clips, each within its length."""
        values, lengths = checked_clips(batch.values), batch.lengths
        chosen = random.uniform() < self.p
        if not chosen.any() or (self.axis == "channel" and values.shape[1] == 1):
            return batch
        if self.axis == "channel":
            flipped = values.flip(1)
        else:
            # abc..  ->  ..cba  ->  cba..
            padding = values.shape[-1] - lengths
            flipped = functional.pad(values.flip(-1), (0, int(padding.max())))
            flipped = windows(flipped, start=padding, samples=values.shape[-1])
        return PaddedBatch(torch.where(column(chosen, values), flipped, values), lengths)


class RandomScale(BatchTransform):
    """Stretch clips in time by linear interpolation, which also shifts their pitch.

    The factor is `max_scale ** U(-1, 1)`. A clip with T samples is resampled to `int(T * factor)` samples, at
    least one. The result equals `torch.nn.functional.interpolate(mode="linear", align_corners=False)` with
    this `scale_factor`, except that positions are computed in float64: after 5 s at 44.1 kHz, torch's float32
    positions are off by about 1/128 of a sample.

    Args:
        max_scale: maximum factor, at least 1; the minimum factor is its inverse.
    """

    def __init__(self, max_scale: float = 1.5) -> None:
        if not is_number(max_scale) or max_scale < 1:
            raise ValueError(f"max_scale is {max_scale!r}; it must be a number, at least 1.")
        self.max_scale = max_scale

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Stretch each clip by its own factor."""
        values = checked_clips(batch.values)
        factor = self.max_scale ** random.uniform(-1.0, 1.0)
        lengths = (batch.lengths * factor).long().clamp(min=1)
        factor = torch.where(lengths == batch.lengths, 1.0, factor)  # no stretching, as in torch
        # A single clip fits into the cache of a CPU; other devices are faster with all clips at once.
        size = 1 if values.device.type == "cpu" else len(values)
        scaled = values.new_zeros(*values.shape[:2], int(lengths.max()))
        for rows in (slice(start, start + size) for start in range(0, len(values), size)):
            samples = int(lengths[rows].max())
            clips = _interpolated(values[rows], batch.lengths[rows], factor[rows], samples=samples)
            scaled[rows, :, :samples] = zero_beyond_(clips, lengths[rows])
        return PaddedBatch(scaled, lengths)


class RandomPadding(BatchTransform):
    """Pad short clips by repeating their edges; leave longer clips unchanged.

    The first sample fills the left side and the last sample the right side, each averaged over the channels:

        =====.....  ->  ---=====--

    Args:
        out_len: target length, in samples.
        train: whether to place the clip at a uniformly random position; if not, it is centred, rounding down.
    """

    def __init__(self, out_len: int, train: bool = True) -> None:
        self.out_len = checked_length(out_len=out_len)
        self.train = train

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Pad each clip that is shorter than `out_len`."""
        values = checked_clips(batch.values)
        missing = (self.out_len - batch.lengths).clamp(min=0)
        left = random.integers(missing + 1) if self.train else missing // 2
        if not missing.any():
            return batch
        lengths = batch.lengths + missing
        samples = int(lengths.max())

        first, last = (
            windows(values, start=start, samples=1).mean(dim=1, keepdim=True)  # [B, 1, 1]
            for start in (torch.zeros_like(lengths), batch.lengths - 1)
        )
        room = int(left.max())
        values = functional.pad(values, (room, samples - values.shape[-1]))
        values = windows(values, start=room - left, samples=samples)
        position = torch.arange(samples, device=values.device)
        values = torch.where(position < column(left, values), first, values)
        values = torch.where(position >= column(left + batch.lengths, values), last, values)
        return PaddedBatch(zero_beyond_(values, lengths), lengths)


class RandomCrop(BatchTransform):
    """Crop long clips; leave shorter clips unchanged.

    A crop that is much quieter than its clip may have missed the event. The published rule therefore replaces
    a crop whose standard deviation is below half the clip's. The replacement is the clip's head, its first
    `out_len` samples. If the head's standard deviation is also below half the clip's but above the crop's,
    the replacement is the tail, the last `out_len` samples. (Two oddities are reproduced: the tail is used
    however quiet it is, and a head quieter than the crop still replaces the crop.) Standard deviations are
    unbiased and taken over all channels and samples.

    Args:
        out_len: target length, in samples.
        train: whether to crop at a uniformly random position; if not, the crop is centred, rounding down.
    """

    def __init__(self, out_len: int, train: bool = True) -> None:
        self.out_len = checked_length(out_len=out_len)
        self.train = train

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Crop each clip that is longer than `out_len`."""
        values = checked_clips(batch.values)
        excess = (batch.lengths - self.out_len).clamp(min=0)
        offset = random.integers(excess + 1) if self.train else excess // 2
        if not excess.any():
            return batch
        lengths = batch.lengths - excess

        # A short clip equals its crop and its head, so the rule leaves it unchanged.
        crop = windows(values, start=offset, samples=self.out_len)
        head = values[..., : self.out_len]
        half_std = _std(values, batch.lengths) / 2
        crop_std, head_std = _std(crop, lengths), _std(head, lengths)
        take_head = crop_std < half_std
        take_tail = take_head & (head_std < half_std) & (head_std > crop_std)
        offset, tail = to_device_of(values, offset), to_device_of(values, excess)
        offset = torch.where(take_tail, tail, torch.where(take_head, torch.zeros_like(offset), offset))
        return PaddedBatch(windows(values, start=offset, samples=self.out_len), lengths)


class RandomNoise(BatchTransform):
    """Add white Gaussian noise, independent in each channel.

    The signal-to-noise ratio, a ratio of energies over all channels, is uniformly distributed in decibels.
    Silence stays silent.

    Args:
        snr_min_db: minimum signal-to-noise ratio, in dB.
        snr_max_db: maximum signal-to-noise ratio, in dB.
        p: probability of adding noise to a clip, 0..1.
    """

    def __init__(self, snr_min_db: float = 10.0, snr_max_db: float = 120.0, *, p: float = 0.25) -> None:
        check_range_db(snr_min_db=snr_min_db, snr_max_db=snr_max_db)
        self.snr_min_db = snr_min_db
        self.snr_max_db = snr_max_db
        self.p = checked_probability(p)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Add noise to the chosen clips."""
        values = checked_clips(batch.values)
        chosen = (random.uniform() < self.p).nonzero()[:, 0]
        snr_db = random.uniform(self.snr_min_db, self.snr_max_db)[chosen]
        if len(chosen) == 0:
            return batch
        rows = to_device_of(values, chosen)
        clips = values[rows]
        noise = zero_beyond_(_white_noise(random.select(chosen), like=clips), batch.lengths[chosen])
        snr_db = to_device_of(values, snr_db.to(values.dtype))
        noisy = add_noise(clips.flatten(1), noise.flatten(1), snr_db)  # [chosen, C*T]
        return PaddedBatch(values.index_copy(0, rows, noisy.view_as(clips)), batch.lengths)


def _white_noise(streams: SampleRandom, *, like: Tensor) -> Tensor:
    """Draw standard normal noise with the shape `[B, C, T]`, device and dtype of `like`."""
    channels, samples = like.shape[1:]
    noise = [streams.normal(samples, device=like.device) for _ in range(channels)]
    return torch.stack(noise, dim=1).to(like.dtype)


def _interpolated(values: Tensor, lengths: Tensor, factor: Tensor, *, samples: int) -> Tensor:
    """Stretch clips `[B, C, T]` by factors, float64 `[B]`; return the first samples, `[B, C, samples]`."""
    factor, last = (to_device_of(values, number)[:, None] for number in (factor, lengths - 1))
    # Output sample j covers [j, j + 1] / factor of the clip: read the clip at the midpoint.
    position = torch.arange(samples, dtype=torch.float64, device=values.device).add_(0.5)
    position = position.div(factor).sub_(0.5).clamp_(min=0)  # [B, samples]
    torch.minimum(position, last, out=position)
    left = position.long()
    weight = position.sub_(left).to(values.dtype)[:, None]
    begin = _gather(values, left)
    torch.minimum(left.add_(1), last, out=left)
    return torch.lerp(begin, _gather(values, left), weight)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Gather `[B, C, N]` from `values`, `[B, C, T]`, at positions `index`, int64 `[B, N]`."""
    return values.gather(-1, index[:, None].expand(-1, values.shape[1], -1))


def _std(values: Tensor, lengths: Tensor) -> Tensor:
    """Unbiased standard deviation `[B]` over each clip's channels and samples; NaN for a single value."""
    count = to_device_of(values, values.shape[1] * lengths).to(values.dtype)
    mean = values.sum(dim=(1, 2)) / count
    deviation = zero_beyond_(values - mean[:, None, None], lengths)
    return torch.sqrt(deviation.square_().sum(dim=(1, 2)) / (count - 1))
