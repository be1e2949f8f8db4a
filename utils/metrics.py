"""Metrics for a protocol's `Metrics` section that ignite lacks, or defines otherwise.

What ignite has is named directly: `ignite.metrics.Accuracy`, `ignite.metrics.TopKCategoricalAccuracy`. Its
`MeanAveragePrecision` and macro `Recall` count a class that no sample has as 0, and so depend on which
classes a fold happens to hold; those here leave it out.
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
    """Mean, over the classes that a sample has, of the average precision of each class's scores.

    A class's samples are ranked by their score for it. Its average precision is the sum over thresholds n,
    from the highest score down, of `(R_n - R_(n-1)) P_n` with precision P and recall R (scikit-learn's
    `average_precision_score`); samples of equal score share a threshold, so that their order does not
    matter. Classes without a positive have none and are left out, as is customary for AudioSet; not a number
    if no class has one.

    Scores are `[N, K]`; targets are 0/1 `[N, K]`, or `[N]` where each sample has one class.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_mean_average_precision, output_transform, check_compute_fn=False)


class MacroAccuracy(EpochMetric):
    """Mean, over the classes that a sample has, of the share of their samples whose highest score is right.

    Also called balanced accuracy. It is equal to accuracy where all classes have equally many samples.

    Scores are `[N, K]`, targets int64 `[N]`.
    """

    def __init__(self, output_transform: Callable[..., Any] = lambda output: output) -> None:
        super().__init__(_macro_accuracy, output_transform, check_compute_fn=False)


class MeanScore(EpochMetric):
    """Mean of one score for each sample, such as the cosine of its sound and its picture.

    Scores are `[N]`, of any targets; samples whose score is not a number are left out.
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
            f"MeanScore takes one score for each sample, [N]; these are {list(scores.shape)}. Where samples "
            "have a score for each class use ignite.metrics.Accuracy."
        )
    return float(scores.nanmean())


def _macro_accuracy(scores: Tensor, targets: Tensor) -> float:
    if targets.dim() != 1:
        raise ValueError(
            f"MacroAccuracy takes one class for each sample, targets [N]; these are {list(targets.shape)}. "
            "Where samples have several labels use utils.metrics.MeanAveragePrecision."
        )
    correct = (scores.argmax(dim=1) == targets).double()
    samples = torch.bincount(targets)
    hits = torch.bincount(targets, weights=correct)
    present = samples > 0
    return float((hits[present] / samples[present]).mean())
