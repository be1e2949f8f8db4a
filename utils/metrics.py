"""Metrics for a protocol's `Metrics` section that ignite does not have or defines differently.

Name others directly: `ignite.metrics.Accuracy`, `ignite.metrics.TopKCategoricalAccuracy`. Ignite's
`MeanAveragePrecision` and macro `Recall` count a class without samples as 0, so they depend on the classes
that a fold happens to contain; the metrics here skip such classes.
"""

# ruff: noqa: PLC0415 (scikit-learn and scipy take seconds to import; the probe in evaluations imports this module)

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric, Metric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ignite_trainer.api.task import StepOutput

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


class Retrieval(Metric):
    """A figure of retrieval between modalities of samples, by which the best epoch can be chosen.

    All items of one modality are ranked for each query in another, such as the sounds for each caption. The
    positives are the items of the same sample. `utils.evaluations.retrieval` defines the figures.

    Args:
        figure: "R@k", "hit@k" or "mAP@k" for any k, "P@1" or "mAP".
        direction: modalities of queries and items.

    Raises:
        ValueError: An argument is invalid, or the task does not embed a modality.
    """

    reads_features = True

    def __init__(
        self,
        figure: str = "mAP@10",
        *,
        direction: str = "text -> audio",
        output_transform: Callable[..., Any] = lambda output: output,
    ) -> None:
        known = re.fullmatch(r"(?:R|hit|mAP)@([1-9]\d{0,8})|P@1|mAP", figure)
        if not known:
            raise ValueError(
                f'figure is "{figure}"; such as "R@1", "hit@5", "mAP@10", "P@1" or "mAP" is expected.'
            )
        if not re.fullmatch(r"\w+ -> \w+", direction):
            raise ValueError(f'direction is "{direction}"; such as "text -> audio" is expected.')
        self._figure, self._rank = figure, int(known[1] or 1)
        self._modalities = tuple(direction.split(" -> "))
        super().__init__(output_transform)

    def reset(self) -> None:
        """Discard the features from an earlier pass."""
        self._samples = 0
        self._features: dict[str, list[Tensor]] = {name: [] for name in self._modalities}
        self._owners: dict[str, list[Tensor]] = {name: [] for name in self._modalities}

    def update(self, output: StepOutput) -> None:
        """Collect the features of a batch; raise ValueError if a modality is missing."""
        counts = output.counts or {}
        for name in self._modalities:
            features = (output.features or {}).get(name)
            if features is None:
                raise ValueError(
                    f"Retrieval compares {' and '.join(self._modalities)} of samples, but the task does not "
                    f"embed {name}; choose another task, such as utils.tasks.Contrastive."
                )
            owners = torch.arange(len(output.y_pred))
            if name in counts:
                owners = owners.repeat_interleave(counts[name].cpu())
            values = features.detach().float().cpu()
            present = values.isnan().any(dim=1).logical_not()
            self._features[name].append(values[present])
            self._owners[name].append(owners[present] + self._samples)
        self._samples += len(output.y_pred)

    def compute(self) -> float:
        """Rank the items for each query."""
        from utils.evaluations.retrieval import PositivePairs, retrieval_metrics

        queries, items = (torch.cat(self._features[name]) for name in self._modalities)
        positives = PositivePairs.by_label(*(torch.cat(self._owners[name]) for name in self._modalities))
        values = retrieval_metrics(queries, items, positives, k=[self._rank]).values
        # Without several positives of a query, hit@k is R@k; hit@1 is P@1.
        equal = "P@1" if self._figure == "hit@1" else self._figure.replace("hit", "R")
        return values.get(self._figure, values[equal])


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
