"""Evaluates one split: metrics, every sample's scores, and the evaluations that are due."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from ignite.engine import Engine, Events

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.predictions import PredictionCollector
from ignite_trainer.api.reporter import SPLIT_NAMES, Evaluated, Split
from ignite_trainer.api.task import StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.support.distributed import is_main, run_on_main
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.training import metrics
from ignite_trainer.training.engines import make_evaluator
from ignite_trainer.training.forward import autocast


class SplitPass:
    """Evaluator of one split, which can run several times."""

    def __init__(
        self,
        blueprint: Blueprint,
        parts: Parts,
        split: Split,
        *,
        folder: Path,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the passes over a split.

        Args:
            blueprint: protocol of the run, with its classes.
            parts: parts of the run.
            split: split to evaluate.
            folder: run folder.
            after_batch: function to call after each batch; it can raise an error to end the pass.
        """
        self._protocol = blueprint.protocol
        self._parts = parts
        self._folder = folder
        self._split = split
        self._due: Mapping[str, Evaluation] = {}
        self._engine = make_evaluator(
            parts.task,
            parts.model,
            self._protocol.setup,
            device=parts.device,
            title=f"Evaluating the {SPLIT_NAMES[split]} split",
        )
        metrics.attach_metrics(blueprint, self._engine, split, device=parts.device)
        self._engine.add_event_handler(Events.ITERATION_COMPLETED, after_batch)
        self._collector: PredictionCollector | None = None
        if split == "test":
            collector = PredictionCollector(parts.evaluation[split].dataset, parts.task.class_names)
            self._collector = collector
            self._engine.add_event_handler(Events.STARTED, self._start, collector)
            self._engine.add_event_handler(Events.ITERATION_COMPLETED, self._step, collector)

    def run(
        self, due: Collection[str], *, epoch: int, iteration: int
    ) -> tuple[Evaluated, dict[str, FigureTable]]:
        """Evaluate the split, with the weights that are evaluated and saved.

        Args:
            due: names of the evaluations to run.
            epoch: number of epochs trained so far.
            iteration: number of iterations trained so far.

        Returns:
            The result of the pass, and a table from each evaluation.

        Raises:
            RunFailed: The task, a metric or an evaluation cannot work with its input.
        """
        started = time.monotonic()
        self._due = {name: self._parts.evaluations[name] for name in due}
        try:
            with self._parts.evaluated_weights():
                self._engine.run(self._parts.evaluation[self._split])
            with self._computing():
                tables = run_on_main(
                    lambda: {name: due.finish(self._folder) for name, due in self._due.items()}
                )
        except ValueError as error:
            raise RunFailed(
                f"Evaluating the {SPLIT_NAMES[self._split]} split failed: {error} "
                f"The results so far are in {self._folder}."
            ) from error
        evaluated = Evaluated(
            epoch=epoch,
            iteration=iteration,
            split=self._split,
            metrics=metrics.values(self._engine, self._protocol),
            seconds=time.monotonic() - started,
            predictions=self._collector.predictions() if self._collector else None,
        )
        return evaluated, tables

    def _start(self, collector: PredictionCollector) -> None:
        collector.reset()
        with self._computing():
            for evaluation in self._measuring():
                evaluation.start(self._parts.model)

    def _step(self, engine: Engine, collector: PredictionCollector) -> None:
        if engine.state.output is None:  # no sample in the batch is readable
            return
        batch, output = cast(Batch, engine.state.batch), cast(StepOutput, engine.state.output)
        collector.add(batch.indices, output.y_pred, output.y)
        with self._computing():
            for evaluation in self._measuring():
                evaluation.step(self._parts.model, batch.indices, batch.sample, output)

    def _measuring(self) -> Collection[Evaluation]:
        """Return the evaluations that are due; only the main process has any, as it gets all outputs."""
        return self._due.values() if is_main() else ()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self._protocol.setup.precision, self._parts.device):
            yield
