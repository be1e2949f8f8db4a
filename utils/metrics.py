"""Metrics for a protocol's `Metrics` section that ignite does not have or defines differently.

Name others directly: `ignite.metrics.Accuracy`, `ignite.metrics.TopKCategoricalAccuracy`. Ignite's
`MeanAveragePrecision` and macro `Recall` count a class without samples as 0, so they depend on the classes
that a fold happens to contain; the metrics here skip such classes.
"""

# ruff: noqa: PLC0415 (scikit-learn takes seconds to import)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric
from torch import Tensor
from torch.nn import functional as F


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
        super().__init__(_mean_average_precision, output_transform, check_compute_fn=False)


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


def _mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    if scores.dim() == 1:  # a single class: EpochMetric drops its axis
        scores, targets = scores[:, None], targets[:, None]
    elif targets.dim() == 1:
        targets = F.one_hot(targets, scores.shape[1])
    precisions = [
        average_precision_score(of_class.numpy(), scores_of_class.numpy())
        for of_class, scores_of_class in zip(targets.T, scores.T, strict=True)
        if of_class.any()
    ]
    return float(np.mean(precisions)) if precisions else math.nan


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
