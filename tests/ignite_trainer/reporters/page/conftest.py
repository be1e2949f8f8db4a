"""Predictions small enough to count by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ignite_trainer.api.predictions import Predictions

Predict = Callable[..., Predictions]


@pytest.fixture
def predict() -> Predict:
    """Make predictions of scores `[N, K]`, and of one target or a list of targets for each sample."""

    def make(
        scores: Any, targets: Sequence[int | list[int]], names: Sequence[str] | None = None
    ) -> Predictions:
        scores = np.asarray(scores, dtype=np.float32)
        chosen = np.zeros(scores.shape, dtype=bool)
        for row, target in zip(chosen, targets, strict=True):
            row[target] = True
        return Predictions(
            scores=scores,
            targets=chosen,
            class_names=tuple(names or (f"class {number}" for number in range(scores.shape[1]))),
            records=tuple({"sample": index} for index in range(len(scores))),
            multilabel=any(isinstance(target, list) for target in targets),
        )

    return make


@pytest.fixture
def guesses(predict: Predict) -> Callable[..., Predictions]:
    """Make predictions of pairs (right class, predicted class), each with a confidence of 0.6."""

    def make(pairs: Sequence[tuple[int, int]], *, classes: int, **more: Any) -> Predictions:
        scores = np.full((len(pairs), classes), 0.4 / max(1, classes - 1))
        scores[range(len(pairs)), [predicted for _, predicted in pairs]] = 0.6
        return predict(scores, [target for target, _ in pairs], **more)

    return make
