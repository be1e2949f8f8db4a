"""Batches read from the cache equal collated samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ignite_trainer.api.batch import PaddedBatch, collate
from ignite_trainer.data.loader import FieldTransform, SplitLoader
from ignite_trainer.data.transfer import BatchReader
from ignite_trainer.support.errors import ProtocolError
from utils.datasets import ESC50, Sample, UrbanSound8K
from utils.datasets.folds import FoldDataset
from utils.transforms import RandomCrop, RandomFlip, RandomNoise, RandomPadding, RandomScale, ToTensor1D


def assert_batches_are_samples(dataset: FoldDataset, indices: list[int], *, kind: torch.dtype) -> None:
    batch, expected = dataset.read_batch(indices), collate([dataset[index] for index in indices])
    assert isinstance(batch, Sample)
    assert isinstance(batch.audio, PaddedBatch)
    assert batch.audio.values.dtype == kind
    assert expected.audio.values.dtype == torch.float32
    assert torch.equal(batch.audio.values.float(), expected.audio.values)
    assert torch.equal(batch.audio.lengths, expected.audio.lengths)
    assert (batch.image, batch.labels) == (expected.image, expected.labels)


def test_batches_of_16_bit_clips_are_int16(esc50: Path) -> None:
    dataset = ESC50(esc50, fold=2)
    assert isinstance(dataset, BatchReader)
    assert_batches_are_samples(dataset, [3, 0, 11, 3], kind=torch.int16)
    assert_batches_are_samples(dataset, [5], kind=torch.int16)
    assert_batches_are_samples(ESC50(esc50, mono=False), [1, 14], kind=torch.int16)


def test_a_batch_with_a_clip_that_is_not_16_bit_is_float32(esc50: Path) -> None:
    exact = np.random.default_rng(0).uniform(-1.5, 1.5, 100).astype(np.float32)
    soundfile.write(esc50 / "audio/1-1000-A-4.wav", exact, 44100, subtype="FLOAT")
    dataset = ESC50(esc50)
    assert_batches_are_samples(dataset, [0, 1, 2], kind=torch.float32)
    assert_batches_are_samples(dataset, [1, 2], kind=torch.int16)


def test_stretched_clips_of_two_channels_are_batched(write_us8k: Callable[..., Path]) -> None:
    random = np.random.default_rng(0)
    root = write_us8k(*(random.integers(-900, 900, (90 + i, 1 + i % 2)).astype(np.int16) for i in range(4)))
    assert_batches_are_samples(UrbanSound8K(root), [0, 1, 2, 3], kind=torch.float32)


def test_users_transforms_are_applied_to_batches(esc50: Path) -> None:
    dataset = ESC50(esc50, target_transform=len)
    assert dataset.read_batch([0, 1]).labels.tolist() == [1, 1]
    dataset = ESC50(esc50, transform_audio=lambda audio: audio[:, :50] / 2)
    expected = collate([dataset[0], dataset[4]]).audio.values
    assert torch.equal(dataset.read_batch([0, 4]).audio.values, expected)


def test_clips_of_different_channels_raise_the_same_error(esc50: Path) -> None:
    path = esc50 / "audio/1-1000-A-4.wav"
    soundfile.write(path, np.random.default_rng(1).uniform(-1, 1, (77, 2)), 44100)
    dataset = ESC50(esc50)
    message = r"except for the length L; got float32 \[1, L\] and float32 \[2, L\]\.$"
    for batch in (lambda: dataset.read_batch([0, 1]), lambda: collate([dataset[0], dataset[1]])):
        with pytest.raises(ProtocolError, match=message):
            batch()


def test_batches_are_copies(esc50: Path) -> None:
    dataset = ESC50(esc50)
    before = dataset[0].audio.copy()
    dataset.read_batch([0, 1]).audio.values.zero_()
    assert np.array_equal(dataset[0].audio, before)


@pytest.mark.parametrize("epoch", [1, 2])
def test_batches_are_augmented_like_single_clips_in_workers(esc50: Path, epoch: int) -> None:
    """Equality is up to float32 rounding at the clip's peak, as sums over padded clips round differently."""
    dataset = ESC50(esc50)
    steps: list[Any] = [ToTensor1D(), RandomFlip(axis="time"), RandomScale(1.5), RandomPadding(100)]
    steps += [RandomCrop(100), RandomNoise(10.0, 40.0, p=0.5)]

    def batches(*more: Any, workers: int) -> list[Any]:
        loader = SplitLoader(
            dataset,
            [FieldTransform(apply=step) for step in (*steps, *more)],
            batch_size=4,
            workers=workers,
            shuffle=True,
            drop_last=True,
            seed=3,
            device=torch.device("cpu"),
            batches=dataset,
        )
        loader.set_epoch(epoch)
        found = list(loader)
        loader.close()
        return found

    together, one_by_one = batches(workers=0), batches(lambda audio: audio, workers=2)
    assert len(together) == len(one_by_one) == 3
    for batch, expected in zip(together, one_by_one, strict=True):
        assert torch.equal(batch.indices, expected.indices)
        assert batch.sample.labels == expected.sample.labels
        peak = float(expected.sample.audio.abs().max())
        torch.testing.assert_close(batch.sample.audio, expected.sample.audio, rtol=0, atol=5e-7 * peak)
