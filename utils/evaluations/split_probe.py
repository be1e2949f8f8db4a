"""Linear probe on official splits, for one or several labels per clip, on any device.

for each C   fit to the training clips, score the validation clips
best C       score the test clips
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from utils.datasets.sample import TEST, TRAIN, VALIDATION
from utils.evaluations.feature_files import FeatureTable
from utils.metrics import d_prime, macro_roc_auc, mean_average_precision

logger = logging.getLogger(__name__)

CHANCE = "chance"
_MOST_STEPS = 2000
_LARGEST_GRADIENT = 1e-5  # of the objective per sample, at which the solver stops
_ROWS = 16_384  # clips whose scores are in memory at once


class LinearModel(NamedTuple):
    """Weights `[D, K]` and intercepts `[K]`, float64, of a linear classifier."""

    weights: Tensor
    intercepts: Tensor
    multilabel: bool
    converged: bool

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of each class for samples `[N, D]`, `[N, K]`."""
        scores = features @ self.weights + self.intercepts
        return scores.sigmoid() if self.multilabel else scores.softmax(dim=1)


def fit_linear(
    features: Tensor, targets: Tensor, *, C: float, multilabel: bool, start: LinearModel | None = None
) -> LinearModel:
    """Fit logistic regression, multinomial or one binary model per class, with an L2 penalty.

    Minimises `sum of the samples' losses + |weights|^2 / (2 C)`, the objective of scikit-learn's
    `LogisticRegression`, with L-BFGS in float64, all classes at once; the intercepts are not penalised.

    Args:
        features: standardised features, float64 `[N, D]`.
        targets: 0/1 `[N, K]`; exactly one 1 per row unless `multilabel`.
        C: inverse strength of the penalty, above 0.
        multilabel: whether a sample can have several labels; the classes are then independent.
        start: model to start from; None for zero weights and intercepts that fit the frequencies.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 (slow to import)

    (samples, dimensions), classes = features.shape, targets.shape[1]
    strength = 1 / (C * samples)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the objective per sample, and its gradient."""
        parameters = torch.from_numpy(flat).to(features.device).view(dimensions + 1, classes)
        weights, intercepts = parameters[:-1], parameters[-1]
        gradient = torch.zeros_like(parameters)
        loss = torch.zeros((), dtype=torch.float64, device=features.device)
        for rows, wanted in zip(features.split(_ROWS), targets.split(_ROWS), strict=True):
            scores = torch.addmm(intercepts, rows, weights)
            if multilabel:
                loss += F.softplus(scores).sum()
            else:
                loss += scores.logsumexp(dim=1).sum()
            loss -= (scores * wanted).sum()
            errors = scores.sigmoid_() if multilabel else scores.softmax(dim=1)
            errors -= wanted
            gradient[:-1].addmm_(rows.T, errors)
            gradient[-1] += errors.sum(dim=0)
        gradient /= samples
        gradient[:-1] += strength * weights
        value = loss / samples + 0.5 * strength * weights.square().sum()
        return float(value), gradient.flatten().cpu().numpy()

    first = torch.zeros(dimensions + 1, classes, dtype=torch.float64)
    if start is None:
        share = ((targets.sum(dim=0) + 0.5) / (samples + 1)).double().cpu()
        first[-1] = share.logit() if multilabel else share.log()
    else:
        first[:-1], first[-1] = start.weights, start.intercepts
    options = {"maxiter": _MOST_STEPS, "gtol": _LARGEST_GRADIENT, "ftol": 64 * np.finfo(float).eps}
    found = minimize(objective, first.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    parameters = torch.from_numpy(found.x).to(features.device).view(dimensions + 1, classes)
    return LinearModel(parameters[:-1], parameters[-1], multilabel, converged=found.nit < _MOST_STEPS)


def probe_splits(
    table: FeatureTable, *, C: Sequence[float], device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Train on the official training split and test on the test split, for every kind of features.

    The probe is `fit_linear` on features standardised over the training clips. It is not fitted again after
    the choice of C, so the validation clips are never trained on.

    Args:
        table: features of a whole data set with official splits; kinds of which a clip can have several rows
            are left out.
        C: inverse strengths of the penalty. The one with the best mAP on the validation clips is used, or
            with the best accuracy if each clip has one label; the smallest C of those with equal scores. A
            single C needs no validation clips.
        device: device that computes.

    Returns:
        One row per kind of features, and a row "chance" for scores that only know the frequencies of the
        training labels. Columns are "accuracy" (only if each clip has one label), "mAP", "AUC" and "d'" of
        the test clips, as `utils.metrics` defines them, the chosen "C" and the score that chose it,
        "validation".

    Raises:
        ValueError: A split is missing, the training clips have a single class, or a clip lacks features.
    """
    assert table.splits is not None, "callers check that there are splits"
    splits = np.array(table.splits)
    train, validation, test = (
        torch.from_numpy(np.flatnonzero(splits == name)).to(device) for name in (TRAIN, VALIDATION, TEST)
    )
    for name, rows in ((TRAIN, train), (TEST, test)):
        if not len(rows):
            raise ValueError(
                f"the probe needs the splits train and test; {table.dataset} has no {name} clip."
            )
    strengths = sorted(C)
    if len(strengths) > 1 and not len(validation):
        raise ValueError(
            f"C is {list(C)}, to be chosen on validation clips, but {table.dataset} has none; give one value."
        )
    multilabel = table.targets is None
    targets = torch.from_numpy(_one_hot(table)).to(device)
    if int((targets[train].sum(dim=0) > 0).sum()) < 2:
        raise ValueError(f"the probe needs training clips of at least 2 classes; {table.dataset} has fewer.")

    def measure(scores: Tensor, rows: Tensor) -> dict[str, float]:
        return _measure(scores.cpu(), targets[rows].cpu(), multilabel=multilabel)

    chosen_by = "mAP" if multilabel else "accuracy"
    found, unfinished = dict[str, dict[str, float]](), 0
    for kind in (kind for kind in table.features if kind not in table.clips_of):
        features = _standardised(torch.from_numpy(table.features[kind]).to(device), train, kind=kind)
        known, wanted = features[train], targets[train].double()
        best: tuple[float, float, LinearModel] | None = None
        model: LinearModel | None = None
        for strength in strengths:
            model = fit_linear(known, wanted, C=strength, multilabel=multilabel, start=model)
            unfinished += not model.converged
            score = math.nan
            if len(validation):
                score = measure(model.probabilities(features[validation]), validation)[chosen_by]
                if math.isnan(score):
                    raise ValueError(f"no validation clip of {table.dataset} has a label to choose C by.")
            if best is None or score > best[0]:
                best = (score, strength, model)
        assert best is not None
        found[kind] = {**measure(best[2].probabilities(features[test]), test), "C": best[1]}
        if len(validation):
            found[kind]["validation"] = best[0]
    frequencies = targets[train].double().mean(dim=0)
    found[CHANCE] = measure(frequencies.expand(len(test), -1), test)
    if unfinished:
        logger.warning(
            "%d of the linear probe's fits did not converge in %d steps; a smaller C converges sooner.",
            *(unfinished, _MOST_STEPS),
        )
    return found


def _one_hot(table: FeatureTable) -> NDArray[np.int8]:
    """Return 0/1 targets `[N, K]`."""
    numbers = {name: number for number, name in enumerate(table.class_names)}
    targets = np.zeros((len(table), len(numbers)), np.int8)
    for row, labels in zip(targets, table.labels, strict=True):
        row[[numbers[label] for label in labels]] = 1
    return targets


def _standardised(features: Tensor, train: Tensor, *, kind: str) -> Tensor:
    """Return features with mean 0 and variance 1 over the training clips, float64; constant ones are 0."""
    if not features.isfinite().all():
        raise ValueError(f'a clip has no features of the kind "{kind}", or infinite ones.')
    features = features.double()
    mean, sd = features[train].mean(dim=0), features[train].std(dim=0, correction=0)
    return (features - mean) / torch.where(sd > 0, sd, 1.0)


def _measure(scores: Tensor, targets: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Return the columns of a row."""
    measured = (
        {} if multilabel else {"accuracy": float((scores.argmax(1) == targets.argmax(1)).double().mean())}
    )
    return {
        **measured,
        "mAP": mean_average_precision(scores, targets),
        "AUC": macro_roc_auc(scores, targets),
        "d'": d_prime(scores, targets),
    }
