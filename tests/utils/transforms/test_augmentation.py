"""Rolling, gain, speed and mixing equal plain formulas for one clip, or for two."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms import Mixup, RandomGain, RandomRoll, RandomSpeed


def streams(count: int = 1, epoch: int = 0) -> SampleRandom:
    return SampleRandom.of(seed=11, epoch=epoch, indices=range(count))


def copies(sample: Tensor, count: int) -> PaddedBatch:
    return PaddedBatch(sample.expand(count, *sample.shape).clone(), torch.full((count,), sample.shape[-1]))


def shifts(samples: int, transform: RandomRoll, count: int) -> Tensor:
    """Return the position where each rolled copy of a ramp has its first sample."""
    rolled = transform.batch(copies(torch.arange(samples)[None].double(), count), streams(count)).values
    return (rolled[:, 0] == 0).nonzero()[:, 1]


# RandomRoll


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("max_shift", [None, 3, 10_000])
def test_each_clip_is_rolled_within_its_length_as_by_numpy(channels: int, max_shift: int | None) -> None:
    clips = [torch.randn(channels, samples) for samples in (1, 5, 64, 63, 2)]
    batch = PaddedBatch.stack(clips)
    for epoch in range(10):
        rolled = RandomRoll(max_shift).batch(batch, streams(5, epoch))
        assert torch.equal(rolled.lengths, batch.lengths)
        uniform = streams(5, epoch).uniform().numpy()
        for row, clip in enumerate(clips):
            samples = clip.shape[-1]
            if max_shift is None:
                shift = math.floor(uniform[row] * samples)
            else:
                shift = math.floor(uniform[row] * (2 * max_shift + 1)) - max_shift
            expected = np.roll(clip.numpy(), shift, axis=-1)
            np.testing.assert_array_equal(rolled.values[row, :, :samples].numpy(), expected)
            assert not rolled.values[row, :, samples:].any()


def test_every_shift_is_equally_likely() -> None:
    counts = torch.bincount(shifts(10, RandomRoll(), 20_000), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6
    counts = torch.bincount((shifts(10, RandomRoll(2), 20_000) + 2) % 10, minlength=10)
    assert not counts[5:].any()
    assert stats.chisquare(counts[:5].numpy()).pvalue > 1e-6


def test_a_clip_is_rolled_with_its_probability() -> None:
    rolled = shifts(1_000, RandomRoll(p=0.25), 10_000) != 0
    share = 0.25 * (1 - 1 / 1_000)
    assert abs(rolled.double().mean() - share) < 5 * math.sqrt(share * (1 - share) / 10_000)


# RandomGain


def test_the_gain_is_uniform_in_decibels_within_its_limits() -> None:
    batch = copies(torch.tensor([[3.0, -2.0], [0.5, 0.0]], dtype=torch.float64), 5_000)
    louder = RandomGain(-6.0, 12.0).batch(batch, streams(5_000)).values
    factor = louder[:, 0, 0] / 3
    torch.testing.assert_close(louder, batch.values * factor[:, None, None])
    gain_db = 20 * torch.log10(factor)
    assert stats.kstest(gain_db.numpy(), stats.uniform(-6, 18).cdf).pvalue > 1e-6


def test_a_gain_of_6_decibels_doubles_a_clip() -> None:
    louder = RandomGain(20 * math.log10(2), 20 * math.log10(2))(torch.tensor([[1.0, -20_000.0]]))
    torch.testing.assert_close(louder, torch.tensor([[2.0, -40_000.0]]))


def test_a_gain_changes_clips_with_its_probability_and_leaves_the_others_as_they_are() -> None:
    batch = copies(torch.tensor([[0.1, 0.7]]), 20_000)
    some = RandomGain(1.0, 2.0, p=0.25).batch(batch, streams(20_000)).values
    changed = (some != batch.values).flatten(1).all(dim=1)
    assert torch.equal(some[~changed], batch.values[~changed])
    assert abs(changed.double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)
    everywhere = RandomGain(1.0, 2.0).batch(batch, streams(20_000)).values
    assert torch.equal(some[changed], everywhere[changed])


# RandomSpeed


def resampled(clip: npt.NDArray[np.float64], up: int, down: int) -> npt.NDArray[np.float64]:
    """Interpolate by a sinc with 6 zero crossings on each side, windowed by a cosine squared, as a sum."""
    samples = clip.shape[-1]
    cutoff = 0.99 * min(1.0, up / down)
    positions = np.arange(math.ceil(samples * up / down)) * down / up
    distance = np.clip(cutoff * (np.arange(samples)[:, None] - positions), -6, 6)
    weights = np.sinc(distance) * np.cos(np.pi * distance / 12) ** 2 * cutoff
    result: npt.NDArray[np.float64] = clip @ weights
    return result


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("speed", "up", "down"), [(0.9, 10, 9), (1.1, 10, 11), (0.95, 20, 19), (2, 1, 2)])
def test_clips_are_resampled_by_a_windowed_sinc(channels: int, speed: float, up: int, down: int) -> None:
    clips = [torch.randn(channels, samples, dtype=torch.float64) for samples in (200, 1, 33, 199)]
    faster = RandomSpeed([speed]).batch(PaddedBatch.stack(clips), streams(4))
    for row, clip in enumerate(clips):
        expected = resampled(clip.numpy(), up, down)
        samples = expected.shape[-1]
        assert faster.lengths[row] == samples
        np.testing.assert_allclose(faster.values[row, :, :samples].numpy(), expected, rtol=0, atol=1e-12)
        assert not faster.values[row, :, samples:].any()


def test_the_pitch_of_a_tone_rises_with_the_speed_without_aliases() -> None:
    time = torch.arange(8_000, dtype=torch.float64) / 8_000
    for frequency, energy in ((1_000, 1.0), (3_900, 0.0)):  # 3,900 * 1.25 Hz is beyond 4,000 Hz
        tone = torch.sin(2 * torch.pi * frequency * time)[None]
        faster = RandomSpeed([1.25])(tone)[0, 200:-200]
        assert faster.square().mean() / 0.5 == pytest.approx(energy, abs=0.01)
        if energy:
            spectrum = torch.fft.rfft(faster * torch.hann_window(len(faster))).abs()
            assert float(spectrum.argmax()) * 8_000 / len(faster) == pytest.approx(1_250, abs=2)


def test_every_speed_is_equally_likely_and_speed_1_leaves_clips_as_they_are() -> None:
    clip = torch.randn(1, 990)
    batch = RandomSpeed([0.9, 1.0, 1.1]).batch(copies(clip, 3_000), streams(3_000))
    lengths, counts = batch.lengths.unique(return_counts=True)
    assert lengths.tolist() == [900, 990, 1100]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6
    unchanged = batch.values[batch.lengths == 990, :, :990]
    assert torch.equal(unchanged, clip.expand_as(unchanged))


def test_a_clip_is_resampled_bit_for_bit_alike_alone_and_in_a_batch() -> None:
    clips = [torch.randn(2, samples) * 5_000 for samples in (3_000, 2_999, 777, 3_000, 1)]
    speed = RandomSpeed()
    for epoch in range(4):
        batch = speed.batch(PaddedBatch.stack(clips), streams(5, epoch))
        for row, clip in enumerate(clips):
            alone = speed(clip, SampleRandom.of(seed=11, epoch=epoch, indices=[row]))
            assert torch.equal(batch.values[row, :, : alone.shape[-1]], alone)


# Mixup


def pairs(batch: PaddedBatch) -> Tensor:
    return torch.arange(len(batch.values)) ^ 1


def levels_db(clip: npt.NDArray[np.float64]) -> float:
    """Return the level of the loudest window of 4,096 samples, half of which overlaps with the next."""
    padded = np.pad(clip, ((0, 0), (0, 4096)))
    windows = [padded[:, start : start + 4096] for start in range(0, padded.shape[1] - 4095, 2048)]
    return max(10 * math.log10(max(float((window**2).mean()), 1.0)) for window in windows)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_the_larger_part_of_a_beta_distribution_is_the_share_of_a_clip_itself(alpha: float) -> None:
    batch = copies(torch.zeros(1, 1), 5_000)
    _, share = Mixup(alpha)(batch, pairs(batch), streams(5_000))
    assert share.dtype == torch.float64
    assert share.min() >= 0.5

    def folded(values: npt.NDArray[np.float64]) -> Any:
        beta = stats.beta(alpha, alpha)
        return beta.cdf(values) - beta.cdf(1 - values)

    assert stats.kstest(share.numpy(), folded).pvalue > 1e-6
    rows = np.corrcoef(share[::2], share[1::2])[0, 1]
    assert abs(rows) < 5 / math.sqrt(2_500), "partners have shares of their own"


@pytest.mark.parametrize("channels", [1, 2])
def test_each_clip_is_mixed_linearly_with_its_partner(channels: int) -> None:
    clips = [torch.randn(channels, samples, dtype=torch.float64) for samples in (9, 9, 9, 5, 1, 7, 9)]
    batch = PaddedBatch.stack(clips)
    partners = torch.tensor([1, 0, 3, 2, 5, 4, 6])  # the last one is alone
    mixed, share = Mixup(0.4)(batch, partners, streams(7))
    assert mixed.lengths.tolist() == [9, 9, 9, 9, 7, 7, 9]
    assert share[6] == 1.0
    assert torch.equal(mixed.values[6], batch.values[6])
    for row, partner in enumerate(partners.tolist()):
        own, other = (
            np.pad(clips[at].numpy(), ((0, 0), (0, 9 - clips[at].shape[1]))) for at in (row, partner)
        )
        expected = float(share[row]) * own + (1 - float(share[row])) * other
        np.testing.assert_allclose(mixed.values[row].numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("channels", [1, 2])
def test_between_class_mixtures_have_amplitudes_in_the_proportion_of_the_shares(channels: int) -> None:
    lengths = (9_000, 9_000, 5_000, 9_000, 1_000, 8_193)
    gains = (20_000, 50, 300, 300, 1e-3, 4_000)
    clips = [
        torch.randn(channels, samples, dtype=torch.float64) * gain * torch.linspace(0, 1, samples)
        for samples, gain in zip(lengths, gains, strict=True)
    ]
    batch = PaddedBatch.stack(clips)
    mixed, share = Mixup(by_level=True)(batch, pairs(batch), streams(6))
    for row in range(6):
        own, other = (batch.values[at].numpy() for at in (row, row ^ 1))
        r, difference = float(share[row]), levels_db(own) - levels_db(other)
        q = 1 / (1 + 10 ** (difference / 20) * (1 - r) / r)
        expected = (q * own + (1 - q) * other) / math.sqrt(q**2 + (1 - q) ** 2)
        np.testing.assert_allclose(mixed.values[row].numpy(), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("by_level", [False, True])
def test_clips_are_mixed_with_their_probability_and_the_others_stay_as_they_are(by_level: bool) -> None:
    batch = PaddedBatch(torch.randn(10_000, 1, 3), torch.full((10_000,), 3))
    mixed, share = Mixup(p=0.25, by_level=by_level)(batch, pairs(batch), streams(10_000))
    alone = share == 1.0
    assert torch.equal(mixed.values[alone], batch.values[alone])
    assert (mixed.values != batch.values).flatten(1).any(dim=1).sum() == (~alone).sum()
    assert abs((~alone).double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 10_000)
    _, everywhere = Mixup(by_level=by_level)(batch, pairs(batch), streams(10_000))
    assert torch.equal(share[~alone], everywhere[~alone])


@pytest.mark.parametrize("by_level", [False, True])
def test_a_mixture_depends_on_its_two_clips_alone(by_level: bool) -> None:
    clips = [torch.randn(1, samples) * 500 for samples in (5_000, 9_000, 20_000, 100)]
    together = PaddedBatch.stack(clips)
    mixup = Mixup(by_level=by_level)
    mixed, share = mixup(together, pairs(together), streams(4))
    for first in (0, 2):
        two = PaddedBatch.stack(clips[first : first + 2])
        random = SampleRandom.of(seed=11, epoch=0, indices=[first, first + 1])
        alone, own = mixup(two, pairs(two), random)
        assert torch.equal(alone.values, mixed.values[first : first + 2, :, : alone.values.shape[-1]])
        assert torch.equal(own, share[first : first + 2])


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), "1"])
def test_alpha_must_be_positive(alpha: Any) -> None:
    with pytest.raises(ValueError, match=f"^alpha is {alpha!r}; it must be a positive number."):
        Mixup(alpha)


def test_taking_levels_into_account_is_a_yes_or_no() -> None:
    with pytest.raises(ValueError, match=r"^by_level is 'no'; it must be true or false\.$"):
        Mixup(by_level=cast(Any, "no"))
