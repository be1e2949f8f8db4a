"""Transforms of audio clips `[C, T]`, alone or in batches; decoding and framing are done elsewhere.

Each random decision about a sample (chosen or not, factor, offset, SNR) comes from its own stream of random
numbers, and is taken on the CPU, where the lengths are. The audio stays on its device, and nothing waits for
it: what depends on the audio itself (`RandomCrop`'s rule about quiet crops) is decided there.

In pictures: `=` audio, `-` an edge value repeated, `.` zeros beyond the sample's length.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import add_noise

from ignite_trainer.api.batch import BatchTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms.padded import column, gather, std, to_device_of, windows, zero_beyond_

FlipAxis = Literal["channel", "time"]

_LONGEST = 100_000_000
"""Samples of a clip; more is a slip of the pen, and one batch of it would fill any memory."""
_LARGEST_SCALE = 100


class ToTensor1D(BatchTransform):
    """Make audio a float tensor `[C, T]`; its scale is kept, so 16-bit integers stay in 16-bit units.

    Takes a tensor or a numpy array, `[T]` (one channel) or `[C, T]`, of any real dtype; in a batch `[B, T]`
    or `[B, C, T]`. float64 stays float64, everything else becomes float32. An array is copied, never shared.
    """

    def __call__(self, sample: Tensor | npt.NDArray[Any], random: SampleRandom | None = None) -> Tensor:
        """Convert one clip; raises ValueError if it has neither one nor two axes."""
        if isinstance(sample, np.ndarray):
            dtype = np.float64 if sample.dtype == np.float64 else np.float32
            # a copy, which torch takes even where the array is read-only or runs backwards
            sample = torch.from_numpy(np.array(sample, dtype=dtype, order="C"))
        if sample.ndim not in {1, 2}:
            raise ValueError(f"sample has shape {list(sample.shape)}; a clip is [T] or [C, T].")
        return super().__call__(sample, random)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Convert every clip."""
        values = batch.values if batch.values.dtype == torch.float64 else batch.values.float()
        if values.ndim == 2:
            values = values[:, None]  # [B, T] -> [B, 1, T]
        return PaddedBatch(_audio(values), batch.lengths)


class RandomFlip(BatchTransform):
    """Reverse the order of the channels, or of the samples in time.

    Flipping the channels, the published default, swaps the two of a stereo clip and leaves a mono clip as it
    is. The published code flipped time instead when it was given a batch; here a clip and a batch of clips
    are treated alike, and time is flipped if `axis` says so.

    Args:
        p: probability that a clip is flipped, 0..1.
        axis: "channel" or "time".
    """

    def __init__(self, p: float = 0.5, axis: FlipAxis = "channel") -> None:
        self.p = _probability(p)
        if axis not in get_args(FlipAxis):
            raise ValueError(f'axis is {axis!r}; "channel" and "time" can be flipped.')
        self.axis = axis

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Flip the clips that are chosen, each within its length."""
        values, lengths = _audio(batch.values), batch.lengths
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
    """Stretch clips in time, and so shift their pitch, by linear interpolation.

    The factor is `max_scale ** U(-1, 1)`, and a clip of T samples gets `int(T * factor)`, at least one. The
    result is that of `torch.nn.functional.interpolate(mode="linear", align_corners=False)` with that
    `scale_factor`, but its positions are kept in float64: in float32, torch's, they are off by about 1/128 of
    a sample after 5 s at 44.1 kHz.

    Args:
        max_scale: largest factor, from 1 up; the smallest is its inverse.
    """

    def __init__(self, max_scale: float = 1.5) -> None:
        if not _is_number(max_scale) or not 1 <= max_scale <= _LARGEST_SCALE:
            raise ValueError(f"max_scale is {max_scale!r}; the largest factor is from 1 to {_LARGEST_SCALE}.")
        self.max_scale = max_scale

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Stretch every clip by a factor of its own."""
        values = _audio(batch.values)
        factor = self.max_scale ** random.uniform(-1.0, 1.0)
        lengths = (batch.lengths * factor).long().clamp(min=1)
        factor = torch.where(lengths == batch.lengths, 1.0, factor)  # as torch does: nothing to stretch
        factor, last = (to_device_of(values, number)[:, None] for number in (factor, batch.lengths - 1))

        # Sample j of the result covers [j, j + 1] / factor of the clip: take the clip at the middle of that.
        position = torch.arange(int(lengths.max()), dtype=torch.float64, device=values.device)
        position = torch.minimum(((position + 0.5) / factor - 0.5).clamp_(min=0), last)  # [B, T]
        left = position.long()
        right = torch.minimum(left + 1, last)
        weight = (position - left).to(values.dtype)[:, None]
        scaled = torch.lerp(gather(values, left), gather(values, right), weight)
        return PaddedBatch(zero_beyond_(scaled, lengths), lengths)


class RandomPadding(BatchTransform):
    """Pad clips that are too short by repeating their edges; longer clips are left as they are.

    The left is filled with the first sample, the right with the last, each averaged over the channels:

        =====.....  ->  ---=====--

    Args:
        out_len: length to reach, in samples.
        train: put the clip at a random place, each equally probable; otherwise in the middle, rounded down.
    """

    def __init__(self, out_len: int, train: bool = True) -> None:
        self.out_len = _length(out_len)
        self.train = train

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Pad every clip that is shorter than `out_len`."""
        values = _audio(batch.values)
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
    """Crop clips that are too long; shorter clips are left as they are.

    A crop that is much quieter than its clip may have lost the event. By the published rule, a crop whose
    standard deviation is under half the clip's is replaced by the clip's head, the first `out_len` samples;
    and if the head's is also under half the clip's, and yet larger than the crop's, by the tail, the last
    `out_len`. (Oddities, kept: the tail is taken however quiet it is itself, and a head quieter still than
    the crop replaces it all the same.) Standard deviations are over all channels and samples, unbiased.

    Args:
        out_len: length to reach, in samples.
        train: crop at a random place, each equally probable; otherwise in the middle, rounded down.
    """

    def __init__(self, out_len: int, train: bool = True) -> None:
        self.out_len = _length(out_len)
        self.train = train

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Crop every clip that is longer than `out_len`."""
        values = _audio(batch.values)
        excess = (batch.lengths - self.out_len).clamp(min=0)
        offset = random.integers(excess + 1) if self.train else excess // 2
        if not excess.any():
            return batch
        lengths = batch.lengths - excess

        # A clip that is not too long is its own crop and its own head, so the rule does not move it.
        crop = windows(values, start=offset, samples=self.out_len)
        head = values[..., : self.out_len]
        half_std = std(values, batch.lengths) / 2
        crop_std, head_std = std(crop, lengths), std(head, lengths)
        take_head = crop_std < half_std
        take_tail = take_head & (head_std < half_std) & (head_std > crop_std)
        offset, tail = to_device_of(values, offset), to_device_of(values, excess)
        offset = torch.where(take_tail, tail, torch.where(take_head, torch.zeros_like(offset), offset))
        return PaddedBatch(windows(values, start=offset, samples=self.out_len), lengths)


class RandomNoise(BatchTransform):
    """Add white Gaussian noise, independent in each channel.

    The ratio of the clip's energy to that of the noise, both over all channels, is uniform in decibels. The
    noise follows the clip: silence stays silence.

    Args:
        snr_min_db: smallest signal-to-noise ratio, in dB.
        snr_max_db: largest signal-to-noise ratio, in dB.
        p: probability that noise is added to a clip, 0..1.
    """

    def __init__(self, snr_min_db: float = 10.0, snr_max_db: float = 120.0, *, p: float = 0.25) -> None:
        for name, value in (("snr_min_db", snr_min_db), ("snr_max_db", snr_max_db)):
            if not _is_number(value):
                raise ValueError(f"{name} is {value!r}; a signal-to-noise ratio is a number of decibels.")
        if snr_min_db > snr_max_db:
            raise ValueError(f"snr_min_db is {snr_min_db}; it cannot exceed snr_max_db, {snr_max_db}.")
        self.snr_min_db = snr_min_db
        self.snr_max_db = snr_max_db
        self.p = _probability(p)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Add noise to the clips that are chosen."""
        values = _audio(batch.values)
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
    """Draw standard normal noise of the shape `[B, C, T]`, device and dtype of `like`."""
    channels, samples = like.shape[1:]
    noise = [streams.normal(samples, device=like.device) for _ in range(channels)]
    return torch.stack(noise, dim=1).to(like.dtype)


def _audio(values: Tensor) -> Tensor:
    if values.ndim != 3 or not values.is_floating_point():
        raise ValueError(
            f"values are {values.dtype} {list(values.shape)}; audio is floating-point [C, T], in a batch"
            " [B, C, T] (see ToTensor1D)."
        )
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _probability(p: float) -> float:
    if not _is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"p is {p!r}; a probability lies in 0..1.")
    return p


def _length(out_len: object) -> int:
    if not isinstance(out_len, int) or isinstance(out_len, bool) or out_len < 1:
        raise ValueError(f"out_len is {out_len!r}; a length is a positive whole number of samples.")
    if out_len > _LONGEST:
        raise ValueError(f"out_len is {out_len}; clips have at most {_LONGEST} samples.")
    return out_len
