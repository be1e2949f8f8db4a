"""A pass over one split, from end to end: its metrics, the scores of every sample, what else is measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.predictions import PredictionCollector, Predictions
from ignite_trainer.api.reporter import Split
from ignite_trainer.api.task import StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.support.distributed import is_main, main_says
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.training import metrics
from ignite_trainer.training.engines import make_evaluator
from ignite_trainer.training.forward import autocast

_TITLES: dict[Split, str] = {
    "train": "Evaluating the training split",
    "test": "Evaluating the held-out split",
}


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What one pass found.

    Attributes:
        metrics: the protocol's metrics on this split, by label.
        predictions: of the held-out split, where the task scores classes.
        tables: of the evaluations that were due, by name.
        seconds: how long it took.
    """

    metrics: dict[str, float]
    predictions: Predictions | None
    tables: dict[str, FigureTable]
    seconds: float


class SplitPass:
    """The evaluation of one split; `run` carries it out once more."""

    def __init__(
        self,
        blueprint: Blueprint,
        parts: Parts,
        split: Split,
        *,
        folder: Path,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the pass; `after_batch` is called after each, and ends it by what it raises."""
        self._protocol, self._parts, self._folder, self._split = blueprint.protocol, parts, folder, split
        self._engine = make_evaluator(
            parts.task, parts.model, self._protocol.setup, device=parts.device, title=_TITLES[split]
        )
        metrics.attach_metrics(blueprint, self._engine, split, device=parts.device)
        self._engine.add_event_handler(Events.ITERATION_COMPLETED, after_batch)
        loader = parts.evaluation[split]
        self._collector: PredictionCollector | None = None
        self._due: Mapping[str, Evaluation] = {}
        if split == "test":
            self._collector = PredictionCollector(loader.dataset, parts.task.class_names)
            self._engine.add_event_handler(Events.STARTED, self._start)
            self._engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def run(self, due: Collection[str] = ()) -> PassResult:
        """Evaluate the split, with the weights that are evaluated and saved.

        Args:
            due: names of the evaluations that take part.

        Raises:
            RunFailed: the task, a metric or an evaluation cannot work with what it was given.
        """
        started = time.monotonic()
        self._due = {name: self._parts.evaluations[name][1] for name in due}
        try:
            with self._parts.evaluated_weights():
                self._engine.run(self._parts.evaluation[self._split])
            with self._computing():
                tables = main_says(self._finish)
        except ValueError as error:  # of the task, or of a metric that takes other scores or targets
            raise RunFailed(
                f"Evaluating the {self._split} split failed: {error} What was reached is in {self._folder}."
            ) from error
        return PassResult(
            metrics=metrics.values(self._engine, self._protocol),
            predictions=self._collector.predictions() if self._collector else None,
            tables=tables,
            seconds=time.monotonic() - started,
        )

    def _finish(self) -> dict[str, FigureTable]:
        return {name: evaluation.finish(self._folder) for name, evaluation in self._due.items()}

    @property
    def _model(self) -> nn.Module:
        return self._parts.model

    def _start(self) -> None:
        assert self._collector is not None
        self._collector.reset()
        with self._computing():
            for evaluation in self._measuring():
                evaluation.start(self._model)

    def _step(self, engine: Engine) -> None:
        assert self._collector is not None
        if engine.state.output is None:  # no sample of the batch could be read
            return
        (indices, sample), output = cast(Batch, engine.state.batch), cast(StepOutput, engine.state.output)
        self._collector.add(indices, output.y_pred, output.y)
        with self._computing():
            for evaluation in self._measuring():
                evaluation.step(self._model, indices, sample, output)

    def _measuring(self) -> Collection[Evaluation]:
        """The evaluations that are due, in the main process: it is given what all have embedded."""
        return self._due.values() if is_main() else ()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self._protocol.setup.precision, self._parts.device):
            yield
