"""UrbanSound8K: channels, length, and the stretch to the full 16-bit range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from utils.datasets import UrbanSound8K
from utils.datasets.us8k import stretch

WriteUS8K = Callable[..., Path]


def tone(
    samples: int, rate: int = 44100, hertz: float = 300.0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


def test_clips_labels_and_folds_come_from_the_table(write_us8k: WriteUS8K) -> None:
    dataset = UrbanSound8K(write_us8k(tone(99), tone(99), tone(99)), fold=2)
    assert [clip.path for clip in dataset.clips] == ["audio/fold1/0-0-0-0.wav", "audio/fold3/2-0-0-0.wav"]
    assert dataset.class_names == ["air conditioner", "car horn"]
    assert dataset.targets == [0, 0]
    assert dataset[0].labels == ["air conditioner"]


def test_each_clip_is_stretched_to_the_16_bit_range(write_us8k: WriteUS8K) -> None:
    clips = [np.array([0, 100, -300, 50]), np.array([7, 9, 8, 8]), np.array([-32768, 0, 0, 32767])]
    dataset = UrbanSound8K(write_us8k(*(clip.astype(np.int16) for clip in clips)), mono=True)
    for clip, sample in zip(clips, dataset, strict=True):
        expected = (clip + 0.0 - clip.min()) / (clip.max() - clip.min()) * 65535 - 32768
        np.testing.assert_allclose(sample.audio[0], expected, atol=0.01)
        assert (sample.audio.min(), sample.audio.max()) == (-32768, 32767)


def test_channels_are_stretched_together() -> None:
    stretched = stretch(np.array([[0, 10], [5, 20]], np.float32))
    np.testing.assert_allclose(stretched, [[-32768, -0.5], [-16384.25, 32767]])
    assert stretched.dtype == np.float32


@pytest.mark.parametrize("level", [0, 1234])
def test_a_constant_clip_becomes_silence(write_us8k: WriteUS8K, level: int) -> None:
    dataset = UrbanSound8K(write_us8k(np.full(50, level, np.int16)))
    np.testing.assert_array_equal(dataset[0].audio, np.zeros((2, 50)))


def test_mono_is_duplicated_unless_mono_is_requested(write_us8k: WriteUS8K) -> None:
    root = write_us8k(tone(1000))
    for mono in (None, False):
        audio = UrbanSound8K(root, mono=mono)[0].audio
        assert audio.shape == (2, 1000)
        np.testing.assert_array_equal(audio[0], audio[1])
    assert UrbanSound8K(root, mono=True)[0].audio.shape == (1, 1000)


def test_stereo_is_kept_or_averaged(write_us8k: WriteUS8K) -> None:
    left, right = np.random.default_rng(0).integers(-9000, 9000, (2, 400)).astype(np.int16)
    root = write_us8k(np.stack([left, right], axis=1))
    kept = UrbanSound8K(root, mono=False)[0].audio
    assert np.corrcoef(kept[0], left)[0, 1] > 0.9999
    assert np.corrcoef(kept[1], right)[0, 1] > 0.9999
    mean = (left.astype(float) + right) / 2
    expected = (mean - mean.min()) / (mean.max() - mean.min()) * 65535 - 32768
    np.testing.assert_allclose(UrbanSound8K(root, mono=True)[0].audio, expected[None], atol=0.01)


def test_clips_are_resampled_then_cut_to_4_seconds(write_us8k: WriteUS8K) -> None:
    dataset = UrbanSound8K(write_us8k(tone(5 * 8000, 8000), tone(3 * 8000, 8000), rate=8000), 16000)
    assert [sample.audio.shape for sample in dataset] == [(2, 64000), (2, 48000)]
    expected = 32767.5 * np.sin(2 * np.pi * 300 * np.arange(64000) / 16000) - 0.5
    np.testing.assert_allclose(dataset[0].audio[0, 500:-500], expected[500:-500], atol=150)


@pytest.mark.real_data
def test_the_real_clips_fill_the_range_in_two_channels(real_data: Callable[[str], Path]) -> None:
    root = real_data("us8k-mini")
    dataset = UrbanSound8K(root)
    assert len(dataset) == 47
    assert len(dataset.class_names) == 10
    assert dataset.class_names[0] == "air conditioner"
    assert dataset.class_names[-1] == "street music"
    for sample in dataset:
        assert sample.audio.shape[0] == 2
        assert sample.audio.shape[1] <= 4 * 44100
        assert (sample.audio.min(), sample.audio.max()) == (-32768, 32767)
    halves = [len(UrbanSound8K(root, fold=[1, 3], train=train)) for train in (True, False)]
    assert sum(halves) == 47
    assert min(halves) > 0
