"""Augmentation of audio clips beyond the published recipe: rolling, gain, speed, and mixing.

As in `utils.transforms.audio`, every random decision comes from the sample's own stream, and the device is
never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional
from torchaudio.transforms import Resample

from ignite_trainer.api.batch import BatchTransform, MixingTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms.clips import (
    check_range_db,
    checked_clips,
    checked_length,
    checked_probability,
    column,
    is_number,
    to_device_of,
    zero_beyond_,
)

_LEVEL_WINDOW = 4096
_LARGEST_DENOMINATOR = 100  # a resampling filter for each numerator and denominator up to this is small


class RandomRoll(BatchTransform):
    """Shift clips in time, circularly within their length: what leaves one end enters at the other.

        abcdefgh  ->  ghabcdef

    The shift is uniform over the whole numbers from -`max_shift` to `max_shift`. Source: the code of PaSST
    (arXiv 2110.05069), where the maximum is 50 samples.

    Args:
        max_shift: maximum shift, in samples; None for any shift.
        p: probability of rolling a clip, 0..1.
    """

    def __init__(self, max_shift: int | None = None, *, p: float = 1.0) -> None:
        self.p = checked_probability(p)
        self.max_shift = None if max_shift is None else checked_length(max_shift=max_shift)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Roll each clip by its own shift."""
        values, lengths = checked_clips(batch.values), batch.lengths
        if self.max_shift is None:
            shifts = random.integers(lengths)
        else:
            limits = torch.full_like(lengths, 2 * self.max_shift + 1)
            shifts = (random.integers(limits) - self.max_shift) % lengths
        shifts = torch.where(random.uniform() < self.p, shifts, 0)
        rolled = torch.zeros_like(values)
        # Slices copy several times as fast as indices gather.
        for row, (length, shift) in enumerate(zip(lengths.tolist(), shifts.tolist(), strict=True)):
            rolled[row, :, shift:length] = values[row, :, : length - shift]
            rolled[row, :, :shift] = values[row, :, length - shift : length]
        return PaddedBatch(rolled, lengths)


class RandomGain(BatchTransform):
    """Amplify or attenuate clips by a gain that is uniformly distributed in decibels.

    Values are not clipped, so they may exceed the range of 16-bit integers. Source: the code of PaSST
    (arXiv 2110.05069), which draws whole decibels from -7 to 6.

    Args:
        min_db: minimum gain, in dB.
        max_db: maximum gain, in dB.
        p: probability of changing a clip, 0..1.
    """

    def __init__(self, min_db: float = -7.0, max_db: float = 7.0, *, p: float = 1.0) -> None:
        check_range_db(min_db=min_db, max_db=max_db)
        self.min_db = min_db
        self.max_db = max_db
        self.p = checked_probability(p)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Multiply each chosen clip by its own factor."""
        values = checked_clips(batch.values)
        chosen = random.uniform() < self.p
        gain_db = torch.where(chosen, random.uniform(self.min_db, self.max_db), 0.0)
        factor = (10.0 ** (gain_db / 20)).to(values.dtype)
        return PaddedBatch(values * column(factor, values), batch.lengths)


class RandomSpeed(BatchTransform):
    """Play clips at another speed, which also shifts their pitch, by band-limited resampling.

    The speed is drawn from a list, each with equal probability. A clip with T samples becomes
    `ceil(T / speed)` samples long. The result equals that of `torchaudio.functional.resample` with its
    default filter, so nothing is aliased. `RandomScale` instead draws its factor from a continuous range and
    interpolates linearly, which is what the published code does; this dampens high frequencies, and aliases
    those that a faster clip can no longer represent.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.

    Args:
        speeds: speeds to choose from, positive; 1.1 makes a clip shorter and higher. Each must be a fraction
            with a numerator and a denominator up to 100, such as 0.95 = 19/20.
    """

    def __init__(self, speeds: Sequence[float] = (0.9, 1.0, 1.1)) -> None:
        if not isinstance(speeds, list | tuple) or not speeds:
            raise ValueError(
                f"speeds is {speeds!r}; it must be a list of one or more speeds, such as [0.9, 1.1]."
            )
        self.speeds = [_fraction(speed) for speed in speeds]

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Resample each clip by its own speed."""
        values = checked_clips(batch.values)
        choice = random.integers(torch.full_like(batch.lengths, len(self.speeds)))
        up, down = (
            torch.tensor([getattr(speed, part) for speed in self.speeds])[choice]
            for part in ("denominator", "numerator")
        )
        lengths = (batch.lengths * up + down - 1) // down  # rounded up
        # On a GPU, a float32 convolution may be rounded to TensorFloat-32.
        precision = torch.float64 if values.is_cuda else values.dtype
        result = values.new_zeros(*values.shape[:2], int(lengths.max()))
        for number in choice.unique().tolist():
            group = (choice == number).nonzero()[:, 0]
            rows = to_device_of(values, group)
            clips = values[rows, :, : int(batch.lengths[group].max())]
            speed = self.speeds[number]
            if speed != 1:
                clips = _resampler(speed, clips.device, precision)(clips.to(precision)).to(values.dtype)
            result[rows, :, : clips.shape[-1]] = clips
        return PaddedBatch(zero_beyond_(result, lengths), lengths)


class Mixup(MixingTransform):
    """Mix each chosen clip with its partner, the next or the previous clip in the epoch's order.

    The clip's share in the mixture is the larger one of lambda and 1 - lambda, where lambda has the
    distribution Beta(alpha, alpha), so that the clip's own labels dominate. Its partner has a lambda of its
    own. The labels of both have these shares in the loss.

        mixup           share * own + (1 - share) * partner                          (arXiv 1710.09412)
        between-class   (q * own + (1 - q) * partner) / sqrt(q^2 + (1 - q)^2),       (arXiv 1711.10282)
                        q = 1 / (1 + 10^((own level - partner's level) / 20) * (1 - share) / share)

    Between-class learning takes the levels into account: amplitudes as heard are in the proportion of the
    shares, and the energy of equally loud clips is kept. The level of a clip is that of its loudest window of
    4,096 samples, over all channels, without the paper's A-weighting, and at least that of one 16-bit step.

    PaSST (arXiv 2110.05069) mixes waveforms of half of the clips, with alpha 2 and the same shares; the
    paper on mixup recommends alphas of 0.1 to 0.4. Between-class learning draws shares uniformly: alpha 1.

    A mixture is as long as the longer clip; the shorter one is followed by zeros.

    Args:
        alpha: parameter of the distribution, positive; the smaller it is, the weaker the partner is in most
            mixtures.
        p: probability of mixing a clip with its partner, 0..1.
        by_level: whether to take levels into account, as in between-class learning.
    """

    def __init__(self, alpha: float = 1.0, *, p: float = 1.0, by_level: bool = False) -> None:
        if not is_number(alpha) or alpha <= 0:
            raise ValueError(f"alpha is {alpha!r}; it must be a positive number.")
        self.alpha = alpha
        self.p = checked_probability(p)
        if not isinstance(by_level, bool):
            raise ValueError(f"by_level is {by_level!r}; it must be true or false.")
        self.by_level = by_level

    def __call__(
        self, batch: PaddedBatch, partners: Tensor, random: SampleRandom
    ) -> tuple[PaddedBatch, Tensor]:
        """Mix the chosen clips; see `MixingTransform`."""
        values, lengths = checked_clips(batch.values), batch.lengths
        chosen = (random.uniform() < self.p) & (partners != torch.arange(len(partners)))
        share = torch.from_numpy(betaincinv(self.alpha, self.alpha, random.uniform().numpy()))
        share = torch.where(chosen, torch.maximum(share, 1 - share), 1.0)
        rows = to_device_of(values, partners)
        own, other = (column(part.to(values.dtype), values) for part in (share, 1 - share))
        if self.by_level:
            amplitude = _amplitudes(values)[:, None, None]
            own, other = own * amplitude[rows], other * amplitude
            own, other = own / (own + other), other / (own + other)
            norm = torch.sqrt(own.square() + other.square())
            own, other = own / norm, other / norm
        mixed = torch.addcmul(values * own, values[rows], other)
        lengths = torch.where(share < 1, torch.maximum(lengths, lengths[partners]), lengths)
        return PaddedBatch(mixed, lengths), share


def _fraction(speed: float) -> Fraction:
    if is_number(speed) and speed > 0:
        fraction = Fraction(speed).limit_denominator(_LARGEST_DENOMINATOR)
        if fraction.numerator <= _LARGEST_DENOMINATOR and abs(fraction - Fraction(speed)) < 1e-9:
            return fraction
    raise ValueError(
        f"speeds contains {speed!r}; a speed must be a positive fraction with a numerator and a denominator "
        f"up to {_LARGEST_DENOMINATOR}, such as 0.95 (19/20)."
    )


def _amplitudes(values: Tensor) -> Tensor:
    """Return the root mean square `[B]` of each clip's loudest window, at least 1."""
    # A window of zeros at the end makes the result independent of the batch's length.
    power = functional.pad(values, (0, _LEVEL_WINDOW)).square().mean(dim=1, keepdim=True)
    return (
        functional.avg_pool1d(power, _LEVEL_WINDOW, _LEVEL_WINDOW // 2).amax(dim=(1, 2)).sqrt().clamp(min=1)
    )


@lru_cache
def _resampler(speed: Fraction, device: torch.device, dtype: torch.dtype) -> Resample:
    """Make the resampling filter on a device; the filter is computed in float64."""
    return Resample(speed.numerator, speed.denominator, dtype=torch.float64).to(device, dtype)
