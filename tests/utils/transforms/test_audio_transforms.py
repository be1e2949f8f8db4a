"""Each audio transform equals a plain formula for one clip."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms import RandomCrop, RandomFlip, RandomNoise, RandomPadding, RandomScale, ToTensor1D


def streams(count: int = 1, epoch: int = 0) -> SampleRandom:
    return SampleRandom.of(seed=11, epoch=epoch, indices=range(count))


def clip(channels: int, samples: int, *, seed: int = 0) -> Tensor:
    """Make white noise in 16-bit units, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, samples, generator=generator, dtype=torch.float64) * 5_000


def copies(sample: Tensor, count: int) -> PaddedBatch:
    return PaddedBatch(sample.expand(count, *sample.shape).clone(), torch.full((count,), sample.shape[-1]))


# ToTensor1D


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float16, np.float32, ">i2"])
def test_arrays_become_float32_in_their_own_units(dtype: npt.DTypeLike) -> None:
    array = np.array([0, 1, 2, 100]).astype(dtype)
    tensor = ToTensor1D()(array)
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[0, 1, 2, 100]]


def test_float64_and_two_axes_are_kept() -> None:
    array = np.random.default_rng(0).normal(size=(2, 50))
    tensor = ToTensor1D()(array)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy(), array)
    array[:] = 0
    assert tensor.abs().min() > 0, "the tensor shares its memory with the array"


def test_read_only_and_reversed_arrays_are_accepted() -> None:
    array = np.arange(5, dtype=np.float32)
    array.flags.writeable = False
    assert ToTensor1D()(array[::-1]).tolist() == [[4, 3, 2, 1, 0]]


def test_single_tensors_and_batches_are_converted() -> None:
    tensor = torch.arange(6, dtype=torch.int16)
    assert ToTensor1D()(tensor).tolist() == [[0, 1, 2, 3, 4, 5]]
    batch = PaddedBatch(tensor.reshape(2, 3), torch.tensor([3, 3]))
    values = ToTensor1D().batch(batch, streams(2)).values
    assert values.dtype == torch.float32
    assert values.tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


# RandomFlip


def test_a_channel_flip_swaps_stereo_and_leaves_mono() -> None:
    stereo, mono = clip(2, 10), clip(1, 10)
    assert torch.equal(RandomFlip(p=1.0)(stereo), stereo[[1, 0]])
    assert torch.equal(RandomFlip(p=1.0)(mono), mono)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_time_flip_reverses_each_clip_within_its_length(channels: int) -> None:
    clips = [clip(channels, samples, seed=samples) for samples in (1, 6, 9)]
    flipped = RandomFlip(p=1.0, axis="time").batch(PaddedBatch.stack(clips), streams(3))
    assert flipped.lengths.tolist() == [1, 6, 9]
    expected = PaddedBatch.stack([torch.from_numpy(sample.numpy()[:, ::-1].copy()) for sample in clips])
    assert torch.equal(flipped.values, expected.values)


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_a_flip_happens_with_its_probability(p: float) -> None:
    batch = copies(torch.tensor([[1.0], [2.0]]), 20_000)
    flipped = RandomFlip(p=p).batch(batch, streams(20_000)).values[:, 0, 0] == 2.0
    assert abs(flipped.double().mean() - p) <= 5 * math.sqrt(p * (1 - p) / 20_000)


# RandomScale


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 2, 3, 17, 1_000])  # longer, torch rounds some positions
def test_a_stretched_clip_equals_torchs_linear_interpolation(channels: int, samples: int) -> None:
    sample = clip(channels, samples)
    for epoch in range(10):
        factor = 1.5 ** float(streams(epoch=epoch).uniform(-1.0, 1.0))
        scaled = RandomScale(1.5)(sample, streams(epoch=epoch))
        assert scaled.shape == (channels, max(1, int(samples * factor)))
        if samples * factor < 1:
            continue  # torch refuses an empty result
        expected = functional.interpolate(
            sample[None], scale_factor=factor, mode="linear", align_corners=False
        )
        torch.testing.assert_close(scaled, expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_clip_is_interpolated_at_exact_positions(dtype: torch.dtype) -> None:
    sample = clip(1, 220_500).to(dtype)
    scaled = RandomScale(1.5)(sample, streams(epoch=3))
    factor = 1.5 ** float(streams(epoch=3).uniform(-1.0, 1.0))
    positions = (np.arange(scaled.shape[-1]) + 0.5) / factor - 0.5
    expected = np.interp(positions, np.arange(220_500), sample[0].numpy())  # constant beyond the ends
    tolerance = 5e-3 if dtype == torch.float32 else 1e-6
    np.testing.assert_allclose(scaled[0].numpy(), expected, rtol=0, atol=tolerance)


def test_stretch_factors_are_log_uniform_around_one() -> None:
    batch = copies(torch.zeros(1, 1_000), 5_000)
    lengths = RandomScale(2.0).batch(batch, streams(5_000)).lengths
    assert 500 <= lengths.min() < 502
    assert 1_997 < lengths.max() <= 2_000
    exponents = torch.log2((lengths + 0.5) / 1_000)
    assert stats.kstest(exponents.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-6


# RandomPadding


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 2, 7, 9])
def test_padding_repeats_the_edges_averaged_over_channels(channels: int, samples: int) -> None:
    sample = clip(channels, samples)
    padded = RandomPadding(10, train=False)(sample)
    left = (10 - samples) // 2
    expected = np.empty((channels, 10))
    expected[:, :left] = sample[:, 0].numpy().mean()
    expected[:, left : left + samples] = sample.numpy()
    expected[:, left + samples :] = sample[:, -1].numpy().mean()
    np.testing.assert_allclose(padded.numpy(), expected, rtol=1e-12)


def test_central_padding_rounds_down() -> None:
    sample = torch.tensor([[1.0, 2.0, 3.0]])
    assert RandomPadding(6, train=False)(sample).tolist() == [[1, 1, 2, 3, 3, 3]]


def test_padding_reaches_every_position_equally_often() -> None:
    sample = torch.tensor([[1.0, 2.0, 3.0]])
    padded = RandomPadding(8).batch(copies(sample, 6_000), streams(6_000))
    offsets = (padded.values[:, 0] == 2.0).long().argmax(dim=1) - 1
    counts = torch.bincount(offsets)
    assert len(counts) == 6  # 0 to 5, both ends included
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("train", [True, False])
def test_clips_of_the_requested_length_are_unchanged(train: bool) -> None:
    for samples in (10, 11):
        assert torch.equal(RandomPadding(10, train=train)(clip(2, samples)), clip(2, samples))
    for samples in (1, 9, 10):
        assert torch.equal(RandomCrop(10, train=train)(clip(2, samples)), clip(2, samples))


# RandomCrop


def test_a_central_crop_rounds_down() -> None:
    sample = torch.tensor([[9.0, -9.0, 8.0, -8.0, 7.0, -7.0, 6.0, -6.0, 5.0]])
    assert RandomCrop(4, train=False)(sample).tolist() == [[8.0, -8.0, 7.0, -7.0]]


def test_a_crop_reaches_every_position_equally_often() -> None:
    # Equally loud throughout.
    sample = torch.tensor([[1.0, -1.0] * 5]).cumsum(dim=1) + torch.arange(10) * 1e-3
    cropped = RandomCrop(6).batch(copies(sample, 5_000), streams(5_000))
    assert cropped.values.shape == (5_000, 1, 6)
    offsets = torch.round((cropped.values[:, 0].sum(dim=1) - 3.0) / 6e-3 - 2.5).long()
    counts = torch.bincount(offsets)
    assert len(counts) == 5  # 0 to 4, both ends included
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize(
    ("levels", "taken"),
    [
        # levels of the head, the middle (where the central crop falls) and the tail
        ((1.0, 1.0, 1.0), "crop"),
        ((1.0, 0.0, 1.0), "head"),
        ((0.1, 0.0, 1.0), "tail"),  # the head is quiet, but louder than the crop
        ((0.0, 0.1, 1.0), "head"),  # the head is even quieter, but is taken all the same
        ((0.0, 0.0, 1.0), "head"),  # the head is as quiet as the crop, not louder
        ((0.0, 1.0, 0.0), "crop"),
        ((0.0, 0.0, 0.0), "crop"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_head_or_the_tail_replaces_a_quiet_crop(
    levels: tuple[float, float, float], taken: str, channels: int
) -> None:
    parts = [level * clip(channels, 100, seed=seed) for seed, level in enumerate(levels)]
    expected = {"head": parts[0], "crop": parts[1], "tail": parts[2]}[taken]
    assert torch.equal(RandomCrop(100, train=False)(torch.cat(parts, dim=1)), expected)


def crop_by_the_rule(sample: npt.NDArray[np.float64], offset: int, out_len: int) -> npt.NDArray[np.float64]:
    """Apply the published rule to one clip, in numpy."""
    half = np.std(sample, ddof=1) / 2
    crop, head, tail = sample[:, offset : offset + out_len], sample[:, :out_len], sample[:, -out_len:]
    if np.std(crop, ddof=1) < half:
        if np.std(head, ddof=1) < half and np.std(head, ddof=1) > np.std(crop, ddof=1):
            return tail
        return head
    return crop


@pytest.mark.parametrize("channels", [1, 2])
def test_crops_of_uneven_clips_follow_the_rule(channels: int) -> None:
    generator = np.random.default_rng(4)
    clips = []
    for _ in range(400):
        levels = np.repeat(generator.choice([0.0, 0.1, 0.3, 1.0, 4.0], size=(1, 6)), 20, axis=1)
        clips.append(generator.normal(100, 1_000, size=(channels, 120)) * levels)
    batch = PaddedBatch.stack([torch.from_numpy(sample) for sample in clips])
    cropped = RandomCrop(33).batch(batch, streams(400))
    offsets = streams(400).integers(torch.full((400,), 120 - 33 + 1))
    plain = [sample[:, at : at + 33] for sample, at in zip(clips, offsets.tolist(), strict=True)]
    expected = [crop_by_the_rule(sample, at, 33) for sample, at in zip(clips, offsets.tolist(), strict=True)]
    moved = sum(not np.array_equal(*pair) for pair in zip(plain, expected, strict=True))
    assert 50 < moved < 350, "the clips do not exercise the rule"
    np.testing.assert_array_equal(cropped.values.numpy(), np.stack(expected))


def test_deviations_are_unbiased_and_undefined_for_one_sample() -> None:
    assert RandomCrop(2, train=False)(torch.tensor([[3.0, 1.0, -1.0, -3.0]])).tolist() == [[1.0, -1.0]]
    assert RandomCrop(1, train=False)(torch.tensor([[5.0, 0.0, 5.0]])).tolist() == [[0.0]]


# RandomNoise


def noise_and_snr(sample: Tensor, noise: RandomNoise, count: int) -> tuple[Tensor, Tensor]:
    """Return the noise added to `count` copies of a clip, and the SNR in dB over all channels."""
    batch = copies(sample, count)
    added = noise.batch(batch, streams(count)).values - batch.values
    energy = added.square().sum(dim=(1, 2))
    return added, 10 * torch.log10(sample.square().sum() / energy)


@pytest.mark.parametrize("channels", [1, 2])
def test_snr_is_uniform_between_its_limits(channels: int) -> None:
    _, snr_db = noise_and_snr(clip(channels, 50), RandomNoise(10.0, 40.0, p=1.0), 5_000)
    assert 10 - 1e-6 < snr_db.min() < 10.1
    assert 39.9 < snr_db.max() < 40 + 1e-6
    assert stats.kstest(snr_db.numpy(), stats.uniform(10, 30).cdf).pvalue > 1e-6


def test_equal_limits_yield_exactly_that_snr_even_for_a_clip_of_one_sample() -> None:
    for samples in (1, 1_000):
        _, snr_db = noise_and_snr(clip(1, samples), RandomNoise(20.0, 20.0, p=1.0), 10)
        torch.testing.assert_close(snr_db, torch.full((10,), 20.0, dtype=torch.float64))


def test_noise_is_white_normal_and_independent_between_channels_and_clips() -> None:
    added, _ = noise_and_snr(clip(2, 20_000), RandomNoise(20.0, 20.0, p=1.0), 3)
    rows = added.flatten(0, 1)  # [clips * channels, T]
    correlation = torch.corrcoef(rows) - torch.eye(6)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)
    for row in rows:
        assert stats.kstest((row / row.std()).numpy(), "norm").pvalue > 1e-6
        spectrum = torch.fft.rfft(row)[1:].abs().square().reshape(100, 100).mean(dim=1)
        assert (spectrum / spectrum.mean() - 1).abs().max() < 0.5  # five deviations of 100 averaged bins


def test_noise_is_added_with_its_probability() -> None:
    added, _ = noise_and_snr(clip(1, 8), RandomNoise(10.0, 20.0, p=0.25), 20_000)
    share = (added != 0).any(dim=-1).double().mean()
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)


def test_noise_does_not_depend_on_the_other_clips() -> None:
    batch = copies(clip(2, 30), 50)
    some = RandomNoise(10.0, 20.0, p=0.3).batch(batch, streams(50)).values
    everywhere = RandomNoise(10.0, 20.0, p=1.0).batch(batch, streams(50)).values
    got_noise = (some != batch.values).flatten(1).any(dim=1)
    assert 0 < got_noise.sum() < 50
    assert torch.equal(some[got_noise], everywhere[got_noise])


def test_silence_stays_silent() -> None:
    assert RandomNoise(10.0, 20.0, p=1.0)(torch.zeros(2, 100)).count_nonzero() == 0
