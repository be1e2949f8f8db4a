"""Mean and sample standard deviation."""

import math

import pytest

from ignite_trainer.results.record import Spread


def test_the_deviation_is_the_sample_standard_deviation() -> None:
    found = Spread.of([0.9, 0.95, 1.0, 0.85])
    assert found is not None
    assert found.mean == pytest.approx(0.925)
    # squared distances from the mean: 0.025^2, 0.025^2, 0.075^2, 0.075^2
    assert found.deviation == pytest.approx(math.sqrt((2 * 0.025**2 + 2 * 0.075**2) / 3))
    assert found.n == 4


def test_a_single_value_has_no_deviation() -> None:
    assert Spread.of([0.5]) == (0.5, None, 1)


@pytest.mark.parametrize("values", [[], [None], [0.5, None]])
def test_missing_values_prevent_a_mean(values: list[float | None]) -> None:
    assert Spread.of(values) is None


def test_seeds_are_averaged_before_folds() -> None:
    found = Spread.over_folds([((1,), 0.9), ((2,), 0.2), ((1,), 0.7)])
    assert found == pytest.approx((0.5, math.sqrt(0.3**2 + 0.3**2), 2))
    assert Spread.over_folds([((), 0.9), ((), 0.7)]) == Spread.of([0.9, 0.7])


def test_a_seed_without_a_value_prevents_the_mean_of_the_folds() -> None:
    assert Spread.over_folds([((1,), 0.9), ((2,), 0.2), ((1,), None)]) is None
    assert Spread.over_folds([]) is None
