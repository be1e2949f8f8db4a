"""What can be said of predictions in figures. All scores are finite here; `finite` leaves out the others."""

# ruff: noqa: PLC0415 (scikit-learn and scipy take seconds to import, which `--help` need not pay)

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.predictions import Predictions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_ROUNDING = 1e-5  # by which probabilities in single precision may leave 0..1


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Samples of one class that were taken for another.

    Attributes:
        target: number of the right class.
        predicted: number of the wrong one.
        count: how many.
        share: of all samples of the right class, above 0 and at most 1.
    """

    target: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidences are from how often they are right.

    Attributes:
        counts: number of confidences in each of M equal bins of 0..1, `[M]`.
        right: how many of them were right, `[M]`.
        confidences: their mean, NaN in an empty bin, `[M]`.
        error: the expected calibration error, see `calibration`.
        mean_confidence: of all.
        accuracy: share of all that is right.
    """

    counts: Counts
    right: Counts
    confidences: Floats
    error: float
    mean_confidence: float
    accuracy: float


def finite(predictions: Predictions) -> Predictions:
    """Leave out the samples with a score that is not finite: they have no prediction to speak of."""
    kept = np.asarray(np.isfinite(predictions.scores).all(axis=1))
    return replace(
        predictions,
        scores=predictions.scores[kept],
        targets=predictions.targets[kept],
        records=tuple(compress(predictions.records, kept)),
        positions=tuple(compress(predictions.positions, kept)) if predictions.positions else None,
    )


def confusion_matrix(predictions: Predictions) -> Counts:
    """Count samples by right class (row) and predicted class (column), int64 `[K, K]`."""
    classes = len(predictions.class_names)
    # By hand: scikit-learn's warns of a single class, which is none of its business here.
    cells = classes * predictions.targets.argmax(axis=1) + predictions.predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def class_accuracies(matrix: Counts) -> Floats:
    """Share of each class's samples that is right (its recall), `[K]`; NaN for a class without samples."""
    samples = matrix.sum(axis=1)
    shares: Floats = np.full(len(matrix), np.nan)
    np.divide(matrix.diagonal(), samples, out=shares, where=samples > 0)
    return shares


def accuracy_interval(right: int, samples: int) -> tuple[float, float]:
    """Give the 95 % interval of an accuracy (Wilson 1927, JASA 22:209), lowest and highest share.

    It says what so few samples can tell, if they are independent of each other.

    Args:
        right: 0 to `samples`.
        samples: at least 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(right, samples).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def cross_entropy(predictions: Predictions) -> float | None:
    """Average the negative logarithm of the probability that each sample's right class is given.

    With several labels a sample, that of the binary cross-entropy: of every class, right or not.

    Returns:
        In nats; None where scores are no probabilities, or where a sample without several labels has none.
    """
    targets, scores = predictions.targets, predictions.scores
    if not _are_probabilities(scores) or not (predictions.multilabel or targets.any(axis=1).all()):
        return None
    given = np.where(targets, scores, 1.0 - scores) if predictions.multilabel else scores[targets]
    smallest = np.finfo(np.float32).tiny  # a probability that rounding made 0 stays finite
    bounded = np.minimum(np.maximum(given.astype(np.float64), smallest), 1.0)
    return float(-np.log(bounded).mean())


def most_confused(matrix: Counts, *, limit: int = 10) -> list[Confusion]:
    """List the pairs of classes with most errors; of equal ones first those with the larger share."""
    samples = matrix.sum(axis=1)
    errors = [
        Confusion(
            target=int(row),
            predicted=int(column),
            count=int(matrix[row, column]),
            share=float(matrix[row, column] / samples[row]),
        )
        for row, column in np.argwhere(matrix)
        if row != column
    ]
    return sorted(errors, key=lambda error: (-error.count, -error.share, error.target))[:limit]


def margins(predictions: Predictions) -> Floats:
    """How far the highest score of a wrong class is above the lowest one of a right class, `[N]`.

    Of a sample with several classes each has to be above all others. Where no class is right, or none wrong,
    its score counts as 0.
    """
    wrong = np.where(predictions.targets, -np.inf, predictions.scores).max(axis=1, initial=-np.inf)
    right = np.where(predictions.targets, predictions.scores, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(wrong), wrong, 0.0) - np.where(np.isfinite(right), right, 0.0)


def average_precisions(predictions: Predictions) -> Floats:
    """Average precision of each class's scores over the samples, `[K]`; NaN for a class without positives.

    The precisions at every threshold, each weighted by the recall it adds; not interpolated.
    """
    from sklearn import metrics

    columns = zip(predictions.targets.T, predictions.scores.T, strict=True)
    return np.array(
        [
            metrics.average_precision_score(right, scores) if right.any() else np.nan
            for right, scores in columns
        ]
    )


def calibration(predictions: Predictions, *, bins: int = 15) -> Calibration | None:
    """Hold confidences against how often they are right.

    A sample's confidence is its highest score, right if that is the score of its class. With several labels
    a sample every score is a confidence by itself, right if its class is among the sample's.

    The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) is the sum over the bins m
    of `n_m / n * |right_m / n_m - mean confidence in m|`, with M bins of equal width, the m-th of them
    `((m - 1) / M, m / M]`; 0 lies in the first. Empty bins add nothing.

    Returns:
        None where there is no score, or one outside 0..1: such scores are no probabilities.
    """
    if predictions.multilabel:
        confidences, right = predictions.scores.ravel(), predictions.targets.ravel()
    else:
        confidences, right = predictions.scores.max(axis=1, initial=-np.inf), predictions.correct
    if not _are_probabilities(predictions.scores):
        return None
    confidences = np.minimum(np.maximum(confidences.astype(np.float64), 0.0), 1.0)
    inner_edges = np.arange(1, bins) / bins
    numbers = np.searchsorted(inner_edges, confidences, side="left")
    counts = np.bincount(numbers, minlength=bins)
    right_counts = np.bincount(numbers[right], minlength=bins)
    sums = np.bincount(numbers, weights=confidences, minlength=bins)
    return Calibration(
        counts=counts,
        right=right_counts,
        confidences=np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0),
        error=float(np.abs(right_counts - sums).sum() / len(confidences)),
        mean_confidence=float(confidences.mean()),
        accuracy=float(right.mean()),
    )


def _are_probabilities(scores: NDArray[np.float32]) -> bool:
    return scores.size > 0 and bool((scores >= -_ROUNDING).all() and (scores <= 1 + _ROUNDING).all())
