"""Percentages are rounded half up."""

import math

import pytest

from ignite_trainer.support.formatting import percent


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (39 / 48, 1, "81.3"),  # 81.25, which Python's formats round to 81.2
        (49 / 80, 1, "61.3"),  # 61.25
        (23 / 80, 1, "28.8"),  # 28.75, as a float slightly less
        ((0.25 + 0.325) / 2, 1, "28.8"),
        (1 / 32, 2, "3.13"),  # 3.125
        (2 / 3, 1, "66.7"),
        (0.0, 1, "0.0"),
        (1.0, 2, "100.00"),
        (math.nan, 1, "nan"),
    ],
)
def test_halves_are_rounded_up(share: float, decimals: int, text: str) -> None:
    assert percent(share, decimals=decimals) == text


def test_shares_of_few_samples_are_rounded_exactly() -> None:
    for samples in range(1, 401):
        for right in range(samples + 1):
            tenths = (2000 * right + samples) // (2 * samples)  # of a per cent, in integer arithmetic
            assert percent(right / samples) == f"{tenths // 10}.{tenths % 10}"
