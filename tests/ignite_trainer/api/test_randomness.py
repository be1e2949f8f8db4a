"""The counter-based generator: distributions, independence of streams, and frozen numbers.

Seeds are fixed, so no test is flaky; limits are about five standard deviations.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from ignite_trainer.api.randomness import SampleRandom


def streams(count: int = 1, *, seed: int = 0, epoch: int = 0, first: int = 0) -> SampleRandom:
    return SampleRandom.of(seed=seed, epoch=epoch, indices=range(first, first + count))


def assert_uniform(numbers: Tensor, bins: int = 256) -> None:
    counts = torch.histc(numbers, bins, min=0.0, max=1.0)
    assert counts.sum() == len(numbers), "numbers outside [0, 1]"
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


def assert_uncorrelated(first: Tensor, second: Tensor) -> None:
    correlation = torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1]
    assert correlation.abs() < 5 / math.sqrt(len(first))


# Frozen numbers, on which the results of finished runs depend


def test_the_numbers_of_a_sample_are_frozen() -> None:
    random = SampleRandom.of(seed=42, epoch=3, indices=[0, 1, 1999])
    assert random.seeds() == [2007838797257189908, 2294342281418682654, 1852924038318839011]
    words = random.uniform() * 2**32
    assert words.tolist() == [655653406, 4132699817, 409496004]
    assert random.integers(torch.tensor([10, 1000, 220501])).tolist() == [0, 209, 13262]
    normal = [[1.38778055, -0.46864894], [-0.22775897, -0.03618785], [-1.32570469, 0.53090537]]
    torch.testing.assert_close(random.normal(2), torch.tensor(normal), atol=1e-6, rtol=1e-6)
    words = random.stream(4).uniform() * 2**32
    assert words.tolist() == [4160975267, 313312385, 958066350]


def test_the_keys_drawn_from_torch_are_frozen() -> None:
    torch.manual_seed(0)
    assert SampleRandom.from_torch(2).seeds() == [900450186894289455, 3969543146641149120]


# Distributions


@pytest.mark.parametrize("varied", ["sample", "seed", "epoch", "stream"])
def test_uniform_numbers_are_uniform_over(varied: str) -> None:
    parts = {
        "sample": lambda number: streams(50, first=50 * number),
        "seed": lambda number: streams(50, seed=number),
        "epoch": lambda number: streams(50, epoch=number),
        "stream": lambda number: streams(50).stream(number),
    }
    assert_uniform(torch.cat([parts[varied](number).uniform() for number in range(1_000)]))


def test_uniform_numbers_lie_between_their_limits() -> None:
    numbers = streams(100_000).uniform(-3.0, 5.0)
    assert numbers.dtype == torch.float64
    assert -3.0 <= numbers.min() < -2.99
    assert 4.99 < numbers.max() < 5.0
    torch.testing.assert_close(numbers, streams(100_000).uniform() * 8 - 3, rtol=0, atol=1e-12)


def test_integers_are_uniform_and_reach_both_ends() -> None:
    for limit in (1, 2, 7, 100):
        numbers = streams(50_000).integers(torch.full((50_000,), limit))
        counts = torch.bincount(numbers, minlength=limit)
        assert len(counts) == limit
        assert stats.chisquare(counts.numpy()).pvalue > 1e-6 if limit > 1 else counts[0] == 50_000


def test_integers_stay_below_the_limit_of_their_sample() -> None:
    limits = torch.arange(1, 5_001)
    numbers = streams(5_000).integers(limits)
    assert numbers.dtype == torch.int64
    assert ((numbers >= 0) & (numbers < limits)).all()


def test_normal_numbers_are_normal() -> None:
    numbers = streams().normal(500_001)[0]
    assert numbers.dtype == torch.float32
    assert numbers.shape == (500_001,)
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-6
    assert 4.2 < numbers.abs().max() < 6.8  # 4.2: exceeded once in 10**5 sets of this size
    moments = [(numbers.double() ** power).mean() for power in (1, 2, 3, 4)]
    for moment, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(moment - expected) < 5 * math.sqrt(variance / 500_001)


def test_normal_numbers_of_a_stream_are_white() -> None:
    numbers = streams().normal(200_000)[0]
    for lag in (1, 2, 3, 10, 1_000, 99_999, 100_000):  # lag 100,000: in case sines follow cosines
        assert_uncorrelated(numbers[lag:], numbers[:-lag])
        assert_uncorrelated(numbers[lag:] ** 2, numbers[:-lag] ** 2)


# Independence


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (streams(seed=0), streams(seed=1)),
        (streams(seed=0), streams(seed=2**32)),
        (streams(epoch=0), streams(epoch=1)),
        (streams(seed=0, epoch=1), streams(seed=1, epoch=0)),
        (streams(epoch=1, first=0), streams(epoch=0, first=1)),
        (streams(first=0), streams(first=1)),
        (streams(first=0), streams(first=2**31)),
        (streams(), streams().stream(0)),
        (streams().stream(0), streams().stream(1)),
        (streams().stream(0).stream(1), streams().stream(1).stream(0)),
        (SampleRandom(torch.tensor([5])), SampleRandom(torch.tensor([5 + 2**31]))),  # halves of the key
        (SampleRandom(torch.tensor([5])), SampleRandom(torch.tensor([6]))),
    ],
)
def test_streams_are_independent(first: SampleRandom, second: SampleRandom) -> None:
    for _ in range(3):
        one, other = first.normal(20_000)[0], second.normal(20_000)[0]
        assert len(set(one.tolist()) & set(other.tolist())) < 200  # a few are equal by chance in float32
        assert_uncorrelated(one, other)
        assert_uncorrelated(one**2, other**2)


def test_samples_are_independent_of_each_other() -> None:
    numbers = streams(100).normal(20_000).double()
    correlation = torch.corrcoef(numbers) - torch.eye(100)
    assert correlation.abs().max() < 5.5 / math.sqrt(20_000)  # the largest of 4,950 pairs


def test_successive_draws_are_independent() -> None:
    random = streams(50_000)
    draws = [random.uniform() for _ in range(5)]
    for first in range(5):
        for second in range(first):
            assert_uncorrelated(draws[first], draws[second])
    cells = (draws[0] * 16).long() * 16 + (draws[1] * 16).long()
    assert stats.chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 1e-6


def test_no_two_samples_share_a_seed() -> None:
    seeds = [
        seed
        for run in range(3)
        for epoch in range(20)
        for seed in streams(2_000, seed=run, epoch=epoch).seeds()
        + streams(2_000, seed=run).stream(epoch).seeds()
    ]
    assert len(set(seeds)) == len(seeds) == 240_000
    assert all(0 <= seed < 2**62 for seed in seeds)


# Independence of the batch


def test_a_sample_gets_the_same_numbers_in_any_batch() -> None:
    together = SampleRandom.of(seed=7, epoch=2, indices=[30, 4, 11])
    for row, index in enumerate([30, 4, 11]):
        alone = SampleRandom.of(seed=7, epoch=2, indices=torch.tensor([index]))
        assert alone.seeds() == [together.seeds()[row]]
    drawn = _draws(together)
    for row, index in enumerate([30, 4, 11]):
        alone = SampleRandom.of(seed=7, epoch=2, indices=[index])
        for one, all_rows in zip(_draws(alone), drawn, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=0, atol=0)


def _draws(random: SampleRandom) -> list[Tensor]:
    return [
        random.uniform(),
        random.integers(torch.full((len(random),), 1000)),
        random.normal(33),
        random.stream(5).uniform(-1.0, 1.0),
        random.uniform(),
    ]


def test_the_length_of_a_draw_does_not_change_the_next() -> None:
    short, long = streams(3), streams(3)
    short.normal(1)
    long.normal(1_000)
    assert torch.equal(short.uniform(), long.uniform())


def test_a_longer_normal_draw_begins_with_a_shorter_one() -> None:
    assert torch.equal(streams(3).normal(100), streams(3).normal(1_000)[:, :100])


def test_a_stream_does_not_depend_on_earlier_draws() -> None:
    random = streams(3)
    before = random.stream(1).uniform()
    random.uniform()
    assert torch.equal(random.stream(1).uniform(), before)


def test_streams_from_torch_follow_its_global_generator() -> None:
    torch.manual_seed(5)
    first, second = SampleRandom.from_torch(3), SampleRandom.from_torch(3)
    torch.manual_seed(5)
    again = SampleRandom.from_torch(3)
    assert len(first) == 3
    assert first.seeds() == again.seeds()
    assert len(set(first.seeds() + second.seeds())) == 6


@pytest.mark.gpu
def test_a_device_draws_the_same_normal_numbers_as_the_cpu() -> None:
    torch.testing.assert_close(
        streams(3).normal(10_001, device="cuda").cpu(), streams(3).normal(10_001), rtol=1e-5, atol=1e-5
    )
