"""Statistics of predictions. Scores must be finite; `finite` removes samples with other scores."""

# ruff: noqa: PLC0415 (scikit-learn and scipy take seconds to import, which `--help` need not pay)

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.predictions import Predictions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_ROUNDING = 1e-5  # how far rounding may take float32 probabilities outside 0..1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Comparison of confidences with the share of correct predictions.

    Attributes:
        counts: number of confidences in each of M bins of equal width in 0..1, `[M]`.
        shares: share of correct predictions in each bin, `[M]`; NaN for an empty bin.
        confidences: mean confidence in each bin, `[M]`; NaN for an empty bin.
        error: expected calibration error, see `calibration`.
        mean_confidence: mean over all confidences.
        accuracy: share of correct predictions over all bins.
    """

    counts: Counts
    shares: Floats
    confidences: Floats
    error: float
    mean_confidence: float
    accuracy: float


def finite(predictions: Predictions) -> Predictions:
    """Remove samples with non-finite scores."""
    kept = np.asarray(np.isfinite(predictions.scores).all(axis=1))
    return replace(
        predictions,
        scores=predictions.scores[kept],
        targets=predictions.targets[kept],
        records=tuple(compress(predictions.records, kept)),
        positions=predictions.positions and tuple(compress(predictions.positions, kept)),
    )


def confusion_matrix(predictions: Predictions) -> Counts:
    """Count samples by true class (row) and predicted class (column), int64 `[K, K]`."""
    from sklearn import metrics

    right, labels = predictions.targets.argmax(axis=1), range(len(predictions.class_names))
    if len(labels) == 1:  # scikit-learn warns about a single class
        return np.array([[len(right)]])
    matrix: Counts = metrics.confusion_matrix(right, predictions.predicted, labels=labels)
    return matrix


def recalls(predictions: Predictions) -> Floats:
    """Return the accuracy of each class (its recall), `[K]`; NaN for a class without samples."""
    from sklearn import metrics

    right, labels = predictions.targets.argmax(axis=1), range(len(predictions.class_names))
    options = {"labels": labels, "average": None, "zero_division": np.nan}
    shares: Floats = metrics.recall_score(right, predictions.predicted, **options)
    return shares


def accuracy_interval(right: int, samples: int) -> tuple[float, float]:
    """Return the bounds of an accuracy's 95 % score interval (Wilson 1927, JASA 22:209).

    Args:
        right: number of correct samples, 0 to `samples`.
        samples: number of independent samples, at least 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(right, samples).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def cross_entropy(predictions: Predictions) -> float | None:
    """Return the mean cross-entropy in nats; for multilabel predictions, the mean binary cross-entropy.

    Return None if scores are not probabilities, or if a sample has no class without being multilabel.
    """
    targets, scores = predictions.targets, predictions.scores
    if not _are_probabilities(scores) or not (predictions.multilabel or targets.any(axis=1).all()):
        return None
    given = np.where(targets, scores, 1.0 - scores) if predictions.multilabel else scores[targets]
    smallest = np.finfo(np.float32).tiny  # keeps the logarithm of a rounded-down 0 finite
    return float(-np.log(np.minimum(np.maximum(given.astype(np.float64), smallest), 1.0)).mean())


def most_confused(matrix: Counts, *, limit: int = 10) -> list[tuple[int, int, int, float]]:
    """List the most frequent confusions, by number of samples and then by share, in descending order.

    Each has the true class, the predicted class, the number of samples and their share of the true class.
    """
    pairs = [(row, column) for row, column in np.argwhere(matrix) if row != column]
    errors = [(*pair, matrix[pair], matrix[pair] / matrix[pair[0]].sum()) for pair in pairs]
    return sorted(errors, key=lambda error: (-error[2], -error[3], error[0]))[:limit]


def margins(predictions: Predictions) -> Floats:
    """Return the highest score of a wrong class minus the lowest score of a true class, `[N]`.

    If a sample has no true class, or no wrong class, 0 replaces the missing score.
    """
    wrong = np.where(predictions.targets, -np.inf, predictions.scores).max(axis=1, initial=-np.inf)
    right = np.where(predictions.targets, predictions.scores, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(wrong), wrong, 0.0) - np.where(np.isfinite(right), right, 0.0)


def average_precisions(predictions: Predictions) -> Floats:
    """Return the average precision of each class, `[K]`; NaN for a class without positives."""
    from sklearn.metrics import average_precision_score

    columns = zip(predictions.targets.T, predictions.scores.T, strict=True)
    return np.array([average_precision_score(*column) if column[0].any() else np.nan for column in columns])


def calibration(predictions: Predictions, *, bins: int = 15) -> Calibration | None:
    """Compare confidences with the share of correct predictions.

    A sample's confidence is its highest score, which is correct if it belongs to the true class. For
    multilabel predictions, every score is a confidence, which is correct if the sample has the class.

    The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) is the mean gap between
    share and confidence over bins, weighted by the bins' counts. Bin m of M is `((m - 1) / M, m / M]`; the
    first bin also includes 0.

    Returns:
        The calibration; None if there are no scores, or if some scores are outside 0..1.
    """
    from sklearn.calibration import calibration_curve

    if not _are_probabilities(predictions.scores):
        return None
    if predictions.multilabel:
        confidences, right = predictions.scores.ravel(), predictions.targets.ravel()
    else:
        confidences, right = predictions.scores.max(axis=1), predictions.correct
    confidences = np.minimum(np.maximum(confidences.astype(np.float64), 0.0), 1.0)
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    counts = np.bincount(np.searchsorted(inner_edges, confidences), minlength=bins)
    curve = np.full((2, bins), np.nan)
    curve[:, counts > 0] = calibration_curve(right, confidences, n_bins=bins)
    return Calibration(
        counts=counts,
        shares=curve[0],
        confidences=curve[1],
        error=float(np.nansum(np.abs(curve[0] - curve[1]) * counts) / len(confidences)),
        mean_confidence=float(confidences.mean()),
        accuracy=float(right.mean()),
    )


def _are_probabilities(scores: NDArray[np.float32]) -> bool:
    return scores.size > 0 and bool((scores >= -_ROUNDING).all() and (scores <= 1 + _ROUNDING).all())
