"""Properties of all audio transforms: batches, random streams, arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ignite_trainer.api.batch import BatchTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from utils.transforms import (
    RandomCrop,
    RandomFlip,
    RandomGain,
    RandomNoise,
    RandomPadding,
    RandomRoll,
    RandomScale,
    RandomSpeed,
    ToTensor1D,
)

LENGTHS = [64, 1, 200, 7, 63, 65, 333, 64]
TRANSFORMS: dict[str, BatchTransform] = {
    "to_tensor": ToTensor1D(),
    "flip_channel": RandomFlip(p=0.5),
    "flip_time": RandomFlip(p=0.5, axis="time"),
    "scale": RandomScale(1.5),
    "padding": RandomPadding(64),
    "padding_central": RandomPadding(64, train=False),
    "crop": RandomCrop(64),
    "crop_central": RandomCrop(64, train=False),
    "noise": RandomNoise(0.0, 30.0, p=0.5),
    "roll": RandomRoll(),
    "roll_little": RandomRoll(20),
    "gain": RandomGain(-6.0, 6.0, p=0.5),
    "speed": RandomSpeed([0.9, 1.0, 1.1]),
}
every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
every_shape = pytest.mark.parametrize("channels", [1, 2])


def clips(channels: int, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make clips in 16-bit units whose level changes, to trigger RandomCrop's rule about quiet crops."""
    generator = torch.Generator().manual_seed(channels)
    envelopes = [torch.linspace(-9, 0, samples).exp2() for samples in LENGTHS]
    return [
        (torch.randn(channels, len(envelope), generator=generator) * envelope * 8_000).to(dtype)
        for envelope in envelopes
    ]


def streams(indices: list[int], epoch: int) -> SampleRandom:
    return SampleRandom.of(seed=5, epoch=epoch, indices=indices)


def assert_equal_to_rounding(actual: Tensor, expected: Tensor) -> None:
    """Compare audio up to float32's rounding at the clip's own level: 0.016 at a peak of 32768.

    Sums over a padded clip, and vectorised cosines at its end, round differently from those of one clip.
    """
    torch.testing.assert_close(actual, expected, rtol=0, atol=5e-7 * float(expected.abs().max()))


def pipeline(out_len: int) -> list[BatchTransform]:
    steps = [RandomFlip(0.5), RandomScale(1.5), RandomPadding(out_len), RandomCrop(out_len)]
    return [ToTensor1D(), *steps, RandomNoise(10.0, 120.0, p=0.25)]


@every_transform
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_equals_its_clips_one_by_one(
    transform: BatchTransform, channels: int, dtype: torch.dtype
) -> None:
    samples = clips(channels, dtype=dtype)
    everyone = list(range(len(samples)))
    for epoch in range(10):
        batch = transform.batch(PaddedBatch.stack(samples), streams(everyone, epoch))
        assert batch.values.dtype == dtype
        assert batch.values.shape[-1] == batch.lengths.max()
        for index, sample in enumerate(samples):
            alone = transform(sample, streams([index], epoch))
            length = int(batch.lengths[index])
            assert_equal_to_rounding(batch.values[index, :, :length], alone)
            assert batch.values[index, :, length:].count_nonzero() == 0


@every_shape
def test_a_pipeline_on_a_batch_equals_the_pipeline_on_its_clips(channels: int) -> None:
    samples = clips(channels)
    for epoch in range(10):
        batch = PaddedBatch.stack(samples)
        random = streams(list(range(len(samples))), epoch)
        for position, transform in enumerate(pipeline(64)):
            batch = transform.batch(batch, random.stream(position))
        assert batch.values.shape == (len(samples), channels, 64)
        for index, alone in enumerate(samples):
            for position, transform in enumerate(pipeline(64)):
                alone = transform(alone, streams([index], epoch).stream(position))  # noqa: PLW2901
            assert_equal_to_rounding(batch.values[index], alone)


@every_transform
def test_random_draws_do_not_depend_on_the_clips(transform: BatchTransform) -> None:
    following = set()
    for samples in ([torch.ones(1, 10)], [torch.ones(1, 64)], [torch.ones(1, 300)], [torch.zeros(2, 1)]):
        random = streams([3], epoch=0)
        transform.batch(PaddedBatch.stack(samples), random)
        following.add(float(random.uniform()))
    assert len(following) == 1


@every_transform
def test_inputs_are_not_changed(transform: BatchTransform) -> None:
    batch = PaddedBatch.stack(clips(2))
    values, lengths = batch.values.clone(), batch.lengths.clone()
    for epoch in range(5):
        transform.batch(batch, streams(list(range(len(lengths))), epoch))
    assert torch.equal(batch.values, values)
    assert torch.equal(batch.lengths, lengths)


@every_transform
def test_a_transform_called_alone_follows_torchs_seed(transform: BatchTransform) -> None:
    def transformed(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [transform(sample) for sample in clips(2)]

    for once, again in zip(transformed(1), transformed(1), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize(
    "name", ["flip_channel", "flip_time", "scale", "padding", "crop", "noise", "roll", "gain", "speed"]
)
def test_repeated_calls_differ(name: str) -> None:
    torch.manual_seed(0)
    sample = clips(2)[3] if name == "padding" else clips(2)[2]
    results = {tuple(TRANSFORMS[name](sample).flatten().tolist()) for _ in range(20)}
    assert len(results) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip(p=1.5), "p is 1.5; it must be between 0 and 1."),
        (lambda: RandomFlip(p=float("nan")), "p is nan; it must be between 0 and 1."),
        (lambda: RandomNoise(10.0, 20.0, p=-0.1), "p is -0.1; it must be between 0 and 1."),
        (lambda: RandomFlip(p=1, axis=_any("up")), 'axis is \'up\'; it must be "channel" or "time".'),
        (lambda: RandomScale(0.9), "max_scale is 0.9; it must be a number, at least 1."),
        (lambda: RandomScale(_any("2")), "max_scale is '2'; it must be a number, at least 1."),
        (lambda: RandomPadding(0), "out_len is 0; it must be a positive integer, in samples."),
        (lambda: RandomCrop(-5), "out_len is -5; it must be a positive integer, in samples."),
        (lambda: RandomCrop(_any(2.5)), "out_len is 2.5; it must be a positive integer, in samples."),
        (lambda: RandomNoise(30.0, 20.0), "snr_min_db is 30.0; it must not exceed snr_max_db, 20.0."),
        (
            lambda: RandomNoise(10.0, float("inf")),
            "snr_max_db is inf; it must be a finite number, in decibels.",
        ),
        (lambda: RandomRoll(0), "max_shift is 0; it must be a positive integer, in samples."),
        (lambda: RandomGain(_any("1")), "min_db is '1'; it must be a finite number, in decibels."),
        (lambda: RandomGain(3.0, -3.0), "min_db is 3.0; it must not exceed max_db, -3.0."),
        (lambda: RandomGain(p=2), "p is 2; it must be between 0 and 1."),
        (
            lambda: RandomSpeed([]),
            "speeds is []; it must be a list of one or more speeds, such as [0.9, 1.1].",
        ),
        (
            lambda: RandomSpeed(_any(1.1)),
            "speeds is 1.1; it must be a list of one or more speeds, such as [0.9, 1.1].",
        ),
    ],
)
def test_arguments_are_checked(make: Callable[[], BatchTransform], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize("speed", [0, -1.1, 1.005, 101, 0.001, "1", True, float("nan")])
def test_speeds_must_be_small_fractions(speed: Any) -> None:
    message = (
        f"speeds contains {speed!r}; a speed must be a positive fraction with a numerator and a denominator "
        "up to 100, such as 0.95 (19/20)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RandomSpeed([1.0, speed])


def _any(value: Any) -> Any:
    """Hide a wrong type from the type checker; a protocol can contain it."""
    return value


@pytest.mark.parametrize("values", [torch.zeros(5), torch.zeros(1, 2, 5), torch.zeros(1, 5).short()])
@pytest.mark.parametrize("name", ["flip_time", "scale", "padding", "crop", "noise", "roll", "gain", "speed"])
def test_tensors_that_are_not_clips_are_refused(values: Tensor, name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^values are torch\.\w+ \[.*\]; audio must be floating-point \[C, T\]"
    ):
        TRANSFORMS[name](values)


def test_a_clip_with_three_axes_cannot_become_1d() -> None:
    with pytest.raises(
        ValueError, match=re.escape("sample has shape [1, 2, 5]; a clip must be [T] or [C, T].")
    ):
        ToTensor1D()(torch.zeros(1, 2, 5))


@pytest.mark.gpu
@every_transform
def test_a_device_computes_the_same_batch_as_the_cpu(transform: BatchTransform) -> None:
    batch = PaddedBatch.stack(clips(2))
    everyone = list(range(len(batch.lengths)))
    expected = transform.batch(batch, streams(everyone, 0))
    result = transform.batch(PaddedBatch(batch.values.cuda(), batch.lengths), streams(everyone, 0))
    assert result.values.is_cuda
    assert not result.lengths.is_cuda
    torch.testing.assert_close(result.values.cpu(), expected.values, rtol=1e-5, atol=1e-2)
