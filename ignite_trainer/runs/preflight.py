"""Checks before the first step, shared by runs and `--check`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from ignite_trainer.api.findings import Finding, format_findings
from ignite_trainer.api.self_description import (
    other_weights,
    place,
    readable_before_prepare,
    sources,
    sources_remedy,
)
from ignite_trainer.api.task import EmbeddingTask
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.runs.construction import Built, Loaders, build_loaders, build_quickly, try_each
from ignite_trainer.runs.model_preparation import plan_training
from ignite_trainer.support.distributed import is_main, world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.lone_samples import refuse_single_values
from ignite_trainer.training.metrics import try_metrics
from ignite_trainer.training.parameters import ParameterPlan


def examine(blueprint: Blueprint, model: nn.Module) -> list[Finding]:
    """Find errors that would stop a run with this model, at the start or later.

    The data sets are not prepared, as this may take hours. If they return no samples unprepared, a warning
    lists the checks that were skipped.

    Raises:
        ProtocolError: Lists everything that cannot be built, with JSON paths.
    """
    built, cpu = build_quickly(blueprint), torch.device("cpu")
    if not all(map(readable_before_prepare, built.datasets.values())):
        return [
            Finding(
                severity="warning",
                what=f"{blueprint.protocol.dataset.path} was not prepared, as that may take long, and "
                "returns no samples unprepared. Not checked: samples, the task, evaluations, metrics, "
                "transforms.",
                remedy="Give it a method look_at(index) that reads one sample without prepare, or start the "
                "run, which checks them once the data set is prepared.",
            )
        ]
    loaders = build_loaders(blueprint, built, seed=0, device=cpu)
    plan = plan_training(blueprint, model)
    found = check(blueprint, built, model, loaders, plan, device=cpu)
    return [*found, *(finding for each in built.task.other_models for finding in damaged_weights(each))]


def damaged_weights(model: nn.Module) -> list[Finding]:
    """Find weights files that are named after a release but have other content."""
    return [
        Finding(
            severity="error",
            what="A weights file does not have the sha256 of the release it is named after: it is "
            "damaged or a different file.",
            where=str(path),
            remedy="Delete it and fetch it again, or rename it.",
        )
        for path in other_weights(model)
    ]


def check(
    blueprint: Blueprint,
    built: Built,
    model: nn.Module,
    loaders: Loaders,
    plan: ParameterPlan,
    *,
    device: torch.device,
) -> list[Finding]:
    """Prepare the task and the evaluations, try the transforms, and find errors that would stop a run later.

    Raises:
        ProtocolError: The task cannot work with the model and the data.
    """
    setup, task = blueprint.protocol.setup, built.task
    train, test = built.datasets["train"], built.datasets["test"]
    build(task.prepare, {"train": train, "test": test}, model, where="Task")
    _, problems = try_each(
        partial(build, evaluation.prepare, {"test": test}, model, task, where=f"Evaluations.{name}")
        for name, evaluation in built.evaluations.items()
    )
    read = [loader for split, loader in loaders.evaluation.items() if split != "train"]
    if setup.epochs:
        read += [loaders.training, *([] if setup.skip_train_evaluation else [loaders.evaluation["train"]])]
    _, untransformed = try_each(partial(build, loader.try_transforms, {}, where="Dataset") for loader in read)
    problems += [*untransformed, *try_metrics(blueprint, task.example_outputs())]
    found = [Finding(severity="error", what=problem) for problem in dict.fromkeys(problems)]
    if setup.epochs and setup.batch_of_all(world_size(), train=True) == 1 and isinstance(task, EmbeddingTask):
        what = "Setup.batch_train is 1, but the loss compares the samples in a batch with each other."
        found.append(Finding(severity="warning", what=what, remedy="Raise it with -b."))

    def ask(**splits: Any) -> list[Finding]:
        scored = {"train_is_scored": False} if setup.skip_train_evaluation else {}
        # Both splits may have the same samples.
        return list(dict.fromkeys(task.check(model, **splits, **scored)))

    found += build(ask, {"train": train if setup.epochs else None, "test": test}, where="Task")
    if "validation" in built.datasets:
        found += build(ask, {"train": None, "test": built.datasets["validation"]}, where="Task")
    if setup.epochs:
        found += shared_recordings(train, test)
    if not untransformed:
        refuse_single_values(task, model, plan, loaders.training, setup, device=device)
    return found


def shared_recordings(train: Any, test: Any) -> Iterator[Finding]:
    """Find training and validation samples whose recording is also evaluated in a later split."""
    held_out, validation = _first_places(test), _first_places(getattr(train, "validation", None))
    for shared in filter(held_out.__contains__, validation):
        yield Finding(
            severity="warning",
            what="A validation sample, which chooses the epoch, comes from a recording that is held out.",
            where=f"{validation[shared]}: {shared} (held out, {held_out[shared]})",
            remedy="Hold all samples of a recording out together.",
        )
    evaluated = {source: f"validation, {where}" for source, where in validation.items()}
    evaluated |= {source: f"held out, {where}" for source, where in held_out.items()}
    for index, source in enumerate(sources(train)):
        if source in evaluated:
            yield Finding(
                severity="warning",
                what="A training sample comes from a recording that is also evaluated.",
                where=f"{place(train, index)}: {source} ({evaluated[source]})",
                remedy=sources_remedy(train),
            )


def _first_places(dataset: Any) -> dict[str, str]:
    """Return the place of the first sample of each recording."""
    places: dict[str, str] = {}
    for index, source in enumerate(sources(dataset)):
        if source is not None and source not in places:
            places[source] = place(dataset, index)
    return places


def raise_errors(findings: Iterable[Finding]) -> None:
    """Log all warnings; raise a ProtocolError that lists all errors, if there are any."""
    found = list(findings)
    if is_main():
        for text in format_findings(finding for finding in found if finding.severity == "warning"):
            logging.getLogger(__name__).warning("%s", text)
    if errors := format_findings(finding for finding in found if finding.severity == "error"):
        raise ProtocolError(errors)
