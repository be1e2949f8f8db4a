"""Assembles the parts of a run from a blueprint: data, model, task, optimizer."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import ignite.distributed as idist
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.reporter import Split
from ignite_trainer.api.self_description import WeightsFile, readable_before_prepare, weights_files
from ignite_trainer.api.task import Task
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.runs.construction import Built, build_loaders, build_quickly, build_transforms
from ignite_trainer.runs.model_preparation import (
    plan_training,
    prepare_model,
    try_out_model,
    with_random_weights,
)
from ignite_trainer.runs.preflight import check, raise_errors
from ignite_trainer.support.distributed import all_or_none, broadcast_state, world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.optimizer_steps import loss_scaler
from ignite_trainer.training.parameters import ParameterPlan
from ignite_trainer.training.weight_average import WeightAverage, average_weights


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a run.

    Attributes:
        device: device of the model and the batches.
        sizes: number of samples in each split.
        training: loader of the training split, shuffled and augmented.
        evaluation: unshuffled loader of each split, with the held-out split's transforms; the held-out split
            comes last.
        model: model to train or evaluate.
        task: task of the protocol.
        evaluations: the protocol's `Evaluations`, by name.
        initial_weights: files of the model's initial weights.
        task_weights: files of the weights of the task's other models, such as a teacher.
        plan: choice of the parameters to train.
        optimizer: optimizer, or None if nothing is trained.
        scheduler: learning-rate scheduler, or None.
        scaler: loss scaler, which is disabled unless gradients are float16.
        average: average of the weights, or None.
    """

    device: torch.device
    sizes: dict[Split, int]
    training: SplitLoader
    evaluation: dict[Split, SplitLoader]
    model: nn.Module
    task: Task
    evaluations: dict[str, Evaluation]
    initial_weights: tuple[WeightsFile, ...]
    task_weights: tuple[WeightsFile, ...]
    plan: ParameterPlan
    optimizer: Optimizer | None
    scheduler: LRScheduler | None
    scaler: GradScaler
    average: WeightAverage | None

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights that are evaluated and saved."""
        return self.average.in_place() if self.average else nullcontext()

    def close(self) -> None:
        """Stop the loaders' worker processes."""
        for loader in (self.training, *self.evaluation.values()):
            loader.close()


def assemble(blueprint: Blueprint, *, seed: int) -> Parts:
    """Build and check everything a run needs.

    A data set can have a method `prepare` for slow work such as decoding. It is called last, so the
    constructor should check everything else. A `prepare` that reads all samples can have an argument
    `skip_unreadable`, which is True if unreadable samples should be skipped. All processes call this
    function, and an error in any process is raised in all of them.

    Raises:
        ProtocolError: Lists everything that cannot be built or cannot work, with JSON paths.
    """
    device = training_device()
    built, model = all_or_none(lambda: _build(blueprint, device))
    broadcast_state(model)
    parts = all_or_none(lambda: _build_rest(blueprint, built, model, seed=seed, device=device))
    all_or_none(lambda: _prepare(blueprint, built, readable=True))
    return parts


def training_device() -> torch.device:
    """Return the device on which this process trains: a GPU if there is one, otherwise the CPU."""
    # Apple's GPUs are not used: they lack float64, in which transforms compute positions.
    return idist.device() if torch.cuda.is_available() else torch.device("cpu")


def with_other_batches(blueprint: Blueprint, parts: Parts, *, seed: int) -> Parts:
    """Return the parts with new loaders for the batch sizes and workers in the blueprint's `Setup`."""
    datasets = {split: loader.dataset for split, loader in parts.evaluation.items()}
    transforms, sampling = build_transforms(blueprint), parts.training.sampling
    built = Built(datasets, transforms, parts.task, parts.evaluations, sampling)
    loaders = build_loaders(blueprint, built, seed=seed, device=parts.device)
    return replace(parts, **loaders._asdict())


def _build(blueprint: Blueprint, device: torch.device) -> tuple[Built, nn.Module]:
    try:
        built = build_quickly(blueprint)
    except ProtocolError as error:
        problems = error.problems
        try:
            try_out_model(with_random_weights(blueprint))  # finding other errors needs no downloaded weights
        except ProtocolError as more:
            problems = [*problems, *more.problems]
        raise ProtocolError(problems) from error
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model")
    model = prepare_model(model, blueprint.protocol.setup, device)
    _prepare(blueprint, built, readable=False)
    return built, model


def _build_rest(
    blueprint: Blueprint, built: Built, model: nn.Module, *, seed: int, device: torch.device
) -> Parts:
    """Build the remaining parts, and check all parts."""
    setup = blueprint.protocol.setup
    loaders = build_loaders(blueprint, built, seed=seed, device=device)
    # As published, the learning rate is multiplied by the number of devices; here, each device has a process.
    rate = setup.rate(world_size())
    plan = plan_training(blueprint, model)
    optimizer, scheduler = build_optimization(blueprint, plan, rate=rate, batches=len(loaders.training))
    average = average_weights(setup, model, plan, optimizer) if optimizer else None
    raise_errors(check(blueprint, built, model, loaders, plan, device=device))
    return Parts(
        device=device,
        sizes={split: len(dataset) for split, dataset in built.datasets.items()},
        training=loaders.training,
        evaluation=loaders.evaluation,
        model=model,
        task=built.task,
        evaluations=built.evaluations,
        initial_weights=weights_files(model),
        task_weights=tuple(file for each in built.task.other_models for file in weights_files(each)),
        plan=plan,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=loss_scaler(setup.precision, device),
        average=average,
    )


def _prepare(blueprint: Blueprint, built: Built, *, readable: bool) -> None:
    """Prepare the data sets that can return samples unprepared (if `readable`), or the others."""
    for dataset in built.datasets.values():
        prepare = getattr(dataset, "prepare", None)
        if callable(prepare) and readable_before_prepare(dataset) == readable:
            takes = "skip_unreadable" in inspect.signature(prepare).parameters
            args = {"skip_unreadable": blueprint.protocol.faults.unreadable == "skip"} if takes else {}
            build(prepare, args, where="Dataset")
