"""Statistics of predictions equal counts made by hand, formulas, and torch's losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ignite_trainer.reporters.page import statistics

PAIRS = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (2, 1), (2, 0), (2, 2), (2, 2)]


def test_the_matrix_counts_true_classes_in_rows_and_predicted_ones_in_columns(guesses: Any) -> None:
    matrix = statistics.confusion_matrix(guesses(PAIRS, classes=4))
    assert matrix.tolist() == [[2, 2, 0, 0], [0, 1, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0]]


def test_the_most_confused_pairs_are_sorted_by_count_and_then_by_share(guesses: Any) -> None:
    matrix = statistics.confusion_matrix(guesses([*PAIRS, (1, 0)], classes=4))
    found = statistics.most_confused(matrix)
    assert found == [(0, 1, 2, 2 / 4), (1, 0, 1, 1 / 2), (2, 0, 1, 1 / 4), (2, 1, 1, 1 / 4)]
    assert statistics.most_confused(matrix, limit=2) == found[:2]


@pytest.mark.parametrize(("right", "samples"), [(0, 1), (1, 1), (7, 10), (33, 48), (400, 400)])
def test_the_interval_of_an_accuracy_follows_wilsons_formula(right: int, samples: int) -> None:
    z, n, p = 1.9599639845400545, samples, right / samples
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = (middle - half, middle + half)
    assert statistics.accuracy_interval(right, samples) == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_the_cross_entropy_that_torch_computes(predict: Any) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = [number % 5 for number in range(20)]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(targets)).item()
    found = statistics.cross_entropy(predict(logits.softmax(dim=1), targets))
    assert found == pytest.approx(expected, rel=1e-6)


def test_with_several_labels_the_loss_is_the_binary_cross_entropy_that_torch_computes(predict: Any) -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predictions = predict(logits.sigmoid(), [[0, 1], [], [2], [1]])
    targets = torch.from_numpy(predictions.targets).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    assert statistics.cross_entropy(predictions) == pytest.approx(expected, rel=1e-6)


def test_a_probability_of_zero_for_the_true_class_leaves_the_loss_finite(predict: Any) -> None:
    assert 80 < (statistics.cross_entropy(predict([[1.0, 0.0]], [1])) or 0) < 90


def test_average_precision_of_a_class_weighs_each_precision_by_the_recall_it_adds(predict: Any) -> None:
    # Class 0 is found at ranks 1 and 3 of 4; class 1 has no positive; class 2 shares rank 3 with another.
    scores = [[0.9, 0.5, 0.9], [0.8, 0.5, 0.7], [0.7, 0.5, 0.7], [0.1, 0.5, 0.1]]
    found = statistics.average_precisions(predict(scores, [[0], [2], [0], []]))
    assert found == pytest.approx([(1 / 1 + 2 / 3) / 2, math.nan, 1 / 3], nan_ok=True)


def test_the_calibration_error_is_the_weighted_gap_of_the_bins(predict: Any) -> None:
    # (0, 0.5]: 0.5 is right, 0.4 wrong. (0.5, 1]: 0.9 and 0.8 are right, 0.7 is wrong.
    scores = [[0.5, 0.3], [0.4, 0.1], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
    found = statistics.calibration(predict(scores, [0, 1, 0, 1, 1]), bins=2)
    assert found is not None
    assert found.counts.tolist() == [2, 3]
    assert found.shares == pytest.approx([1 / 2, 2 / 3])
    assert found.confidences == pytest.approx([0.45, 0.8])
    assert found.error == pytest.approx(2 / 5 * abs(1 / 2 - 0.45) + 3 / 5 * abs(2 / 3 - 0.8))
    assert found.mean_confidence == pytest.approx((0.5 + 0.4 + 0.9 + 0.8 + 0.7) / 5)
    assert found.accuracy == pytest.approx(3 / 5)


def test_with_several_labels_every_score_is_a_confidence(predict: Any) -> None:
    found = statistics.calibration(predict([[0.9, 0.2], [0.0, 1.0]], [[0, 1], []]), bins=2)
    assert found is not None
    assert (found.counts.tolist(), found.shares.tolist()) == ([2, 2], [0.5, 0.5])
    assert found.error == pytest.approx((abs(1 - 0.2) + abs(1 - 1.9)) / 4)


def test_empty_bins_have_no_mean_confidence(predict: Any) -> None:
    found = statistics.calibration(predict([[1.0, 0.0]], [0]))
    assert found is not None
    assert found.error == 0
    assert found.counts.tolist() == [0] * 14 + [1]
    assert np.isnan(found.confidences).tolist() == [True] * 14 + [False]


@pytest.mark.parametrize("score", [1.2, -0.1])
def test_scores_outside_0_to_1_are_not_calibrated(predict: Any, score: float) -> None:
    assert statistics.calibration(predict([[0.5, 0.4], [0.9, score]], [0, 0])) is None


def test_probabilities_above_one_by_rounding_are_calibrated(predict: Any) -> None:
    found = statistics.calibration(predict([[1.000001, 0.0]], [0]))
    assert found is not None
    assert found.mean_confidence == 1
