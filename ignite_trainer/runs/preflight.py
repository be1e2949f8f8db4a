"""Checks before the first step, shared by runs and `--check`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.findings import Finding, said
from ignite_trainer.api.reporter import Split
from ignite_trainer.api.task import EmbeddingTask, Task
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.support.distributed import is_main, world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.metrics import try_metrics

logger = logging.getLogger(__name__)


def prepare_and_check(
    blueprint: Blueprint,
    datasets: Mapping[Split, Any],
    *,
    model: nn.Module,
    task: Task,
    evaluations: Mapping[str, Evaluation],
) -> list[Finding]:
    """Prepare task and evaluations, and find what a run would fail at later.

    Args:
        blueprint: of the run.
        datasets: both splits, whose samples can be looked at.
        model: the model.
        task: the task.
        evaluations: by their names.

    Raises:
        ProtocolError: the task or an evaluation cannot work with model and data.
    """
    build(task.prepare, {"train": datasets["train"], "test": datasets["test"]}, model, where="Task")
    problems: list[str] = []
    for name, evaluation in evaluations.items():
        try:
            build(evaluation.prepare, {"test": datasets["test"]}, model, task, where=f"Evaluations.{name}")
        except ProtocolError as error:
            problems += error.problems
    problems += try_metrics(blueprint, task.example_outputs())
    found = [Finding(severity="error", what=problem) for problem in problems]
    return [*found, *_of_the_batch(blueprint, task), *_of_the_task(blueprint, task, model, datasets)]


def raise_errors(findings: Iterable[Finding]) -> None:
    """Log the warnings among findings; raise a ProtocolError if there are errors."""
    found = list(findings)
    for text in said(one for one in found if one.severity == "warning") if is_main() else ():
        logger.warning("%s", text)
    if errors := said(one for one in found if one.severity == "error"):
        raise ProtocolError(errors)


def _of_the_task(
    blueprint: Blueprint, task: Task, model: nn.Module, datasets: Mapping[Split, Any]
) -> list[Finding]:
    setup = blueprint.protocol.setup
    train = datasets["train"] if setup.epochs else None
    scored = {"train_is_scored": False} if setup.skip_train_evaluation else {}

    def ask(**splits: Any) -> list[Finding]:
        # Both splits may be the same samples.
        return list(dict.fromkeys(task.check(model, **splits, **scored)))

    return build(ask, {"train": train, "test": datasets["test"]}, where="Task")


def _of_the_batch(blueprint: Blueprint, task: Task) -> list[Finding]:
    setup = blueprint.protocol.setup
    if not setup.epochs or setup.batch_of_all(world_size(), train=True) > 1:
        return []
    if not isinstance(task, EmbeddingTask):
        return []
    what = (
        "Setup.batch_train is 1, and the loss compares the samples of a batch: one alone has nothing to be "
        "told apart from."
    )
    return [Finding(severity="warning", what=what, remedy="Raise it with -b.")]
