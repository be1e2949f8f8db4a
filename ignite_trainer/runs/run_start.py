"""Describes a run when it starts or resumes: facts, charts, exhibits of its samples and model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ignite_trainer.api import file_names
from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.reporter import Best, RunStart
from ignite_trainer.api.self_description import (
    excluded,
    hold_nothing_out,
    record,
    results_name,
    sample_name,
)
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.data.mixing import mixtures
from ignite_trainer.protocol.sections import ClassSpec, Protocol
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.support.distributed import world_size
from ignite_trainer.training import metrics
from ignite_trainer.training.forward import task_streams


def describe_start(
    protocol: Protocol,
    parts: Parts,
    folder: Path,
    environment: Mapping[str, Any],
    *,
    resumed_from: str | None,
    best: tuple[Best, ...],
    caution: str,
) -> RunStart:
    """Describe a run that starts or resumes.

    Args:
        protocol: protocol of the run.
        parts: parts of the run.
        folder: run folder.
        environment: description of the environment, from `describe_environment`.
        resumed_from: position of a resumed run, in words; None for a new run.
        best: best epochs so far.
        caution: warning about the initial weights, or "".
    """
    setup, dataset = protocol.setup, parts.evaluation["test"].dataset
    weights, task_weights = (
        ", ".join(f"{file.name} (sha256 {file.sha256})" for file in files)
        for files in (parts.initial_weights, parts.task_weights)
    )
    threads = environment["threads"]
    is_whole = hold_nothing_out(parts.evaluation["train"].dataset, dataset)
    validates = "validation" in parts.sizes
    facts = {
        "Started": environment["started"],
        "Model": protocol.model.path,
        "Initial weights": weights or "random, unless the model loads weights itself",
        **({"Weights of the task": task_weights} if task_weights else {}),
        "Device": environment["accelerator"] or f"{parts.device} ({threads} thread{'s' * (threads != 1)})",
        "Precision": setup.precision,
        "Seed": str(environment["seed"]),
        **(_training_facts(protocol, parts) if setup.epochs else {}),
        "Data": results_name(dataset),
        **({"Validation split": f"{parts.sizes['validation']:,} samples"} if validates else {}),
        "Evaluated" if is_whole else "Held-out split": f"{parts.sizes['test']:,} samples",
        **({"Resumed from": resumed_from} if resumed_from else {}),
        "Results": str(folder),
    }
    return RunStart(
        folder=folder,
        name=f"{setup.name} {folder.name}",
        protocol=protocol.to_json(),
        environment=environment,
        facts=facts,
        windows=metrics.windows(protocol, parts.evaluation),
        epochs=setup.epochs,
        iterations_per_epoch=len(parts.training),
        best=best,
        caution=caution,
        sweep=f"{setup.name} {folder.parent.name}" if (folder.parent / file_names.SWEEP).exists() else None,
        gallery=RunGallery(parts, epochs=setup.epochs),
    )


def _training_facts(protocol: Protocol, parts: Parts) -> dict[str, str]:
    """Describe parameters, optimizer, learning rates, schedule, batch and training split."""
    setup = protocol.setup
    facts = {f"Parameters {pattern}": text for pattern, text in parts.plan.summary.items()}
    if parts.optimizer and protocol.optimizer:
        facts["Optimizer"] = _call(protocol.optimizer, without="lr")
        # A schedule with a warm-up has lowered the rate by now; `initial_lr` is the peak rate.
        groups = [parts.optimizer.param_groups[index] for index in parts.plan.first_groups]
        rates = [f"{group.get('initial_lr', group['lr']):g}" for group in groups if "lr" in group]
        if rates:
            facts["Learning rate"] = ", ".join(rates if len(set(rates)) > 1 else rates[:1])
        if protocol.schedules:
            facts["Schedule"] = "; ".join(map(_call, protocol.schedules.values()))
        facts["Batch"] = f"{setup.batch_of_all(world_size(), train=True):,} samples"
        if setup.accumulate > 1:
            facts["Batch"] += f", {setup.accumulate} batches per step"
    facts["Training split"] = f"{parts.sizes['train']:,} samples, {len(parts.training):,} batches"
    if parts.training.sampling:
        facts["Sampling"] = parts.training.sampling.description
    if left_out := excluded(parts.evaluation["train"].dataset):
        lists = ", ".join(f"{name} {count:,}" for name, count in left_out.items())
        facts["Left out of training"] = f"{sum(left_out.values()):,} samples by their recordings: {lists}"
    return facts


def _call(spec: ClassSpec, *, without: str = "") -> str:
    """Format a class with its arguments, such as "SGD (momentum 0.9)"."""
    args = ", ".join(f"{key} {json.dumps(value)}" for key, value in spec.args.items() if key != without)
    name = spec.path.rpartition(".")[-1]
    return f"{name} ({args})" if args else name


class RunGallery(Gallery):
    """Exhibits of a run's task (images and sounds), made without any effect on its model or random states.

    Exhibits that cannot be made are skipped with a warning.
    """

    def __init__(self, parts: Parts, *, epochs: int) -> None:
        self._parts = parts
        self._epochs = epochs

    def model(self) -> Sequence[Exhibit]:
        """Show the model, with the weights that are evaluated and saved."""
        task, model = self._parts.task, self._parts.model
        return self._shown("The model", lambda: task.portray_model(model))

    def held_out(self, positions: Sequence[int]) -> Sequence[Portrait]:
        """Show samples from the held-out split, transformed for evaluation."""
        loader = self._parts.evaluation["test"]
        portraits = [self._portrait(loader, position, transformed=True) for position in positions]
        return [portrait for portrait in portraits if portrait.exhibits]

    def augmented(self, count: int) -> Sequence[tuple[Portrait, Portrait]]:
        """Show the first samples of the training split, before and after the first epoch's transforms."""
        loader = self._parts.training
        pairs = []
        for position in range(min(count, self._parts.sizes["train"]) if self._epochs else 0):
            before, after = (self._portrait(loader, position, transformed=done) for done in (False, True))
            if before.exhibits and after.exhibits:
                pairs.append((before, after))
        return pairs

    def _portrait(self, loader: SplitLoader, position: int, *, transformed: bool) -> Portrait:
        task, model, dataset = self._parts.task, self._parts.model, loader.dataset
        facts = dict(record(dataset, position))

        def show() -> Sequence[Exhibit]:
            sample = loader.one(position, epoch=1, transformed=transformed)
            facts.update(mixtures(sample))
            augmented = transformed and loader is self._parts.training
            with task_streams(task, loader.streams([position], epoch=1) if augmented else None):
                return task.portray_sample(model, sample)

        exhibits = self._shown(sample_name(dataset, position), show)
        return Portrait(record=facts, exhibits=exhibits)

    def _shown(self, what: str, show: Callable[[], Sequence[Exhibit]]) -> Sequence[Exhibit]:
        try:
            with torch.inference_mode(), self._parts.evaluated_weights():
                return show()
        except Exception as error:  # a missing exhibit should not fail the run
            logging.getLogger(__name__).warning(
                "%s cannot be shown (%s: %s).", what, type(error).__name__, error, exc_info=True
            )
            return ()
