"""The linear probe as part of a run: on what the task embeds, and on a baseline beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.self_description import folds, held_out_folds
from ignite_trainer.api.task import StepOutput, Task
from utils.evaluations.collecting import FeatureCollector
from utils.evaluations.log_mel import log_mel_statistics
from utils.evaluations.probe import check_penalty, probe

BASELINE_ROW = "log-mel statistics"


class LinearProbe(Evaluation):
    """Train a linear classifier on frozen features, each fold of the data set held out in turn.

    The features are what the task embeds in a pass over the whole data set, `Dataset.args.fold` null; the
    table is that of `utils.evaluations.probe.probe`.

    Args:
        C: inverse strength of the probe's L2 penalty, above 0.
        baseline: "log-mel": also probe the statistics of each clip's log-mel spectrogram (`log_mel.py`),
            computed from the audio that the task was given.
    """

    def __init__(self, *, C: float = 1.0, baseline: Literal["log-mel"] | None = None) -> None:
        check_penalty(C)
        if baseline not in (None, "log-mel"):
            raise ValueError(f'baseline is "{baseline}"; allowed: log-mel, null.')
        self._C, self._baseline = C, baseline
        self._statistics: list[NDArray[np.float32]] = []

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: ARG002 - the contract's
        """Check that the whole data set is evaluated, and that it has folds."""
        if held_out := held_out_folds(test):
            numbers = " and ".join(map(str, held_out))
            raise ValueError(
                f"the linear probe needs features of the whole data set, as it holds out each fold in turn; "
                f"here only fold {numbers} is evaluated. Set Dataset.args.fold to null."
            )
        if (count := len(folds(test))) < 2:
            raise ValueError(f"the linear probe needs at least two folds; the data set has {count}.")
        if not getattr(test, "class_names", None):
            raise ValueError(f"{type(test).__name__} has no class_names; a probe is fitted to labels.")
        if self._baseline and not hasattr(test, "sample_rate"):
            raise ValueError('the baseline "log-mel" needs the sample_rate of the data set, which has none.')
        self._collector, self._dataset = FeatureCollector(test, task), test

    def start(self, model: nn.Module) -> None:  # noqa: ARG002
        """Forget the pass before."""
        self._collector.reset()
        self._statistics = []

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:  # noqa: ARG002
        """Keep the features of a batch."""
        self._collector.add(indices, batch.labels, output.features)
        if self._baseline:
            self._statistics.append(log_mel_statistics(_clips(batch.audio), self._dataset.sample_rate))

    def finish(self, folder: Path) -> FigureTable:  # noqa: ARG002
        """Train and test the probe."""
        table = self._collector.table()
        if self._baseline:
            features = {**table.features, BASELINE_ROW: np.concatenate(self._statistics)}
            table = dataclasses.replace(table, features=features)
        return probe(table, C=self._C)


def _clips(audio: Tensor | PaddedBatch) -> Iterator[Tensor]:
    """The clips of a batch, each `[C, T]` without padding."""
    if isinstance(audio, PaddedBatch):
        return (clip[:, :length] for clip, length in zip(audio.values, audio.lengths.tolist(), strict=True))
    return iter(audio)
