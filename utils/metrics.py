"""Metrics for a protocol's `Metrics` section that ignite does not have or defines differently.

Name others directly: `ignite.metrics.Accuracy`, `ignite.metrics.TopKCategoricalAccuracy`. Ignite's
`MeanAveragePrecision` and macro `Recall` count a class without samples as 0, so they depend on the classes
that a fold happens to contain; the metrics here skip such classes.
"""

# ruff: noqa: PLC0415 (scikit-learn and scipy take seconds to import)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_MOST_RANKS = 10_000_000
"""Maximum number of scores to rank at once, about 0.5 GB."""


class MeanAveragePrecision(EpochMetric):
    """Mean average precision over the classes that occur.

    Samples are ranked by their score for a class. The class's average precision is the sum of
    `(R_n - R_(n-1)) P_n`, with precision P and recall R, over the thresholds n from the highest score down
    (scikit-learn's `average_precision_score`). Samples with equal scores share a threshold, so their order
    does not matter. Classes without a positive sample are skipped, as is customary for AudioSet; the result
    is NaN if no class has one.

    Scores are `[N, K]`. Targets are 0/1 `[N, K]`, or class numbers `[N]` if each sample has one class.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(mean_average_precision, output_transform, check_compute_fn=False)


class MacroROCAUC(EpochMetric):
    """Area under the ROC curve of each class, averaged over the classes that have both kinds of samples.

    The area is the probability that a positive sample has a higher score than a negative one, with equal
    scores counted as one half (scikit-learn's `roc_auc_score`). Classes without a positive sample or without
    a negative one are skipped; the result is NaN if no class has both, or if a score is NaN.

    Scores are `[N, K]`. Targets are 0/1 `[N, K]`, or class numbers `[N]` if each sample has one class.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(macro_roc_auc, output_transform, check_compute_fn=False)


class DPrime(EpochMetric):
    """Sensitivity index d', `sqrt(2) * Phi^-1(AUC)` of the `MacroROCAUC`; Phi is the normal distribution.

    It is the distance between the means of positives and negatives, in standard deviations, if both are
    normally distributed: 0 at chance, infinite for perfect scores (Gemmeke et al., ICASSP 2017). The average
    of each class's own d', which some authors give, is different and mostly higher.

    Scores and targets are those of `MacroROCAUC`.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(d_prime, output_transform, check_compute_fn=False)


class MacroAccuracy(EpochMetric):
    """Balanced accuracy: the accuracy per class, averaged over the classes that occur.

    Equals accuracy if all classes have the same number of samples.

    Scores are `[N, K]`, targets int64 `[N]`.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_macro_accuracy, output_transform, check_compute_fn=False)


class MeanScore(EpochMetric):
    """Mean of one score per sample, such as the cosine similarity between its sound and its image.

    Scores are `[N]`; targets are ignored. Samples with a NaN score are skipped.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_mean_score, output_transform, check_compute_fn=False)


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Compute `MeanAveragePrecision`."""
    from sklearn.metrics import average_precision_score

    scores, targets = _per_class(scores, targets)
    precisions = [
        average_precision_score(of_class.numpy(), scores_of_class.numpy())
        for of_class, scores_of_class in zip(targets.T, scores.T, strict=True)
        if of_class.any()
    ]
    return float(np.mean(precisions)) if precisions else math.nan


def macro_roc_auc(scores: Tensor, targets: Tensor) -> float:
    """Compute `MacroROCAUC`."""
    from scipy.stats import rankdata

    scores, targets = _per_class(scores, targets)
    areas: list[NDArray[np.float64]] = []
    for columns, of_columns in zip(*_chunks(scores, targets), strict=True):
        positive = of_columns.numpy() > 0
        positives = positive.sum(axis=0)
        pairs = positives * (len(positive) - positives)
        # Mann and Whitney: the number of pairs in which the positive sample has the higher score.
        ranks = (rankdata(columns.numpy(), axis=0) * positive).sum(axis=0)
        defined = pairs > 0
        areas.append(((ranks - positives * (positives + 1) / 2)[defined]) / pairs[defined])
    area = np.concatenate(areas)
    return float(area.mean()) if len(area) else math.nan


def d_prime(scores: Tensor, targets: Tensor) -> float:
    """Compute `DPrime`."""
    area = torch.tensor(macro_roc_auc(scores, targets), dtype=torch.float64)
    return math.sqrt(2) * float(torch.special.ndtri(area))


def _per_class(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and 0/1 targets, both `[N, K]`."""
    if scores.dim() == 1:  # a single class: EpochMetric drops its axis
        return scores[:, None], targets[:, None]
    return scores, F.one_hot(targets, scores.shape[1]) if targets.dim() == 1 else targets


def _chunks(*tables: Tensor) -> list[tuple[Tensor, ...]]:
    """Split tables `[N, K]` into groups of columns that are small enough to rank at once."""
    return [table.split(max(1, _MOST_RANKS // len(table)), dim=1) for table in tables]


def _mean_score(scores: Tensor, targets: Tensor) -> float:  # noqa: ARG001 - EpochMetric's signature
    if scores.dim() != 1:
        raise ValueError(
            f"MeanScore takes one score per sample, [N]; the scores are {list(scores.shape)}. For one score "
            "per class use ignite.metrics.Accuracy."
        )
    return float(scores.nanmean())


def _macro_accuracy(scores: Tensor, targets: Tensor) -> float:
    if targets.dim() != 1:
        raise ValueError(
            f"MacroAccuracy takes one class per sample, targets [N]; the targets are {list(targets.shape)}. "
            "For samples with several labels use utils.metrics.MeanAveragePrecision."
        )
    correct = (scores.argmax(dim=1) == targets).double()
    samples = torch.bincount(targets)
    hits = torch.bincount(targets, weights=correct)
    present = samples > 0
    return float((hits[present] / samples[present]).mean())
