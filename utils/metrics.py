"""Metrics for a protocol's `Metrics` section that ignite lacks or defines differently.

Name others directly: `ignite.metrics.Accuracy`, `ignite.metrics.TopKCategoricalAccuracy`. Ignite's
`MeanAveragePrecision` and macro `Recall` count a class without samples as 0, so they depend on the classes
that a fold happens to hold; the metrics here leave such classes out.
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

    Samples are ranked by their score for a class. Its average precision is the sum over thresholds n, from
    the highest score down, of `(R_n - R_(n-1)) P_n` with precision P and recall R (scikit-learn's
    `average_precision_score`); samples of equal score share a threshold, so their order does not matter.
    Classes without a positive are left out, as is customary for AudioSet; NaN if no class has one.

    Scores are `[N, K]`; targets are 0/1 `[N, K]`, or `[N]` where each sample has one class.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_mean_average_precision, output_transform, check_compute_fn=False)


class MacroAccuracy(EpochMetric):
    """Balanced accuracy: the accuracy on the samples of a class, averaged over the classes that occur.

    Equals accuracy if all classes have the same number of samples.

    Scores are `[N, K]`, targets int64 `[N]`.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_macro_accuracy, output_transform, check_compute_fn=False)


class MeanScore(EpochMetric):
    """Mean of one score per sample, such as the cosine similarity of its sound and its picture.

    Scores are `[N]`, with any targets; samples whose score is NaN are left out.
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


def _mean_score(scores: Tensor, targets: Tensor) -> float:  # noqa: ARG001 - what EpochMetric gives
    if scores.dim() != 1:
        raise ValueError(
            f"MeanScore takes one score per sample, [N]; these are {list(scores.shape)}. For a score per "
            "class use ignite.metrics.Accuracy."
        )
    return float(scores.nanmean())


def _macro_accuracy(scores: Tensor, targets: Tensor) -> float:
    if targets.dim() != 1:
        raise ValueError(
            f"MacroAccuracy takes one class per sample, targets [N]; these are {list(targets.shape)}. For "
            "samples with several labels use utils.metrics.MeanAveragePrecision."
        )
    correct = (scores.argmax(dim=1) == targets).double()
    samples = torch.bincount(targets)
    hits = torch.bincount(targets, weights=correct)
    present = samples > 0
    return float((hits[present] / samples[present]).mean())
