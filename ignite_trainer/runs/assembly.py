"""From a blueprint the parts of a run: data, model, task, optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.reporter import Split
from ignite_trainer.api.self_description import (
    WeightsFile,
    can_be_looked_at,
    hold_nothing_out,
    to_hold_out,
    weights_files,
)
from ignite_trainer.api.task import Task
from ignite_trainer.data.loader import FieldTransform, SplitLoader
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.data.transfer import batches_of
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import EvaluationSpec
from ignite_trainer.reporters.ignite_loggers import require_loggers
from ignite_trainer.runs.model_preparation import build_model
from ignite_trainer.runs.preflight import prepare_and_check, raise_errors
from ignite_trainer.support.distributed import all_or_none, share_state, world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.lone_samples import refuse_single_values
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.optimizer_steps import loss_scaler
from ignite_trainer.training.parameters import ParameterPlan, apply_rules
from ignite_trainer.training.weight_average import WeightAverage

SPLITS: tuple[Split, ...] = ("train", "test")
_SPLIT_NAMES: dict[Split, str] = {"train": "training", "test": "held-out"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a protocol describes, built.

    Attributes:
        device: where the model is and the batches go.
        sizes: number of samples of each split.
        training: the training split, shuffled and augmented.
        evaluation: each split in its own order, with the transforms of the held-out one.
        evaluations: what else is measured on the held-out split, by name.
        initial_weights: the files that the model's weights came from.
        plan: what of the model is trained.
        optimizer: None where nothing is trained.
        average: of the weights, if the protocol wants one.
        scaler: of the loss; does nothing unless gradients are float16.
    """

    device: torch.device
    sizes: dict[Split, int]
    training: SplitLoader
    evaluation: dict[Split, SplitLoader]
    model: nn.Module
    task: Task
    evaluations: dict[str, tuple[EvaluationSpec, Evaluation]]
    initial_weights: tuple[WeightsFile, ...]
    plan: ParameterPlan
    optimizer: Optimizer | None
    scheduler: LRScheduler | None
    scaler: GradScaler
    average: WeightAverage | None

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """A block in which the model has the weights that are evaluated and saved."""
        return self.average.in_place() if self.average else nullcontext()

    def close(self) -> None:
        """End what runs beside the run: the workers of its loaders."""
        for loader in (self.training, *self.evaluation.values()):
            loader.close()


class _Built(NamedTuple):
    """Parts of a run that do not depend on others."""

    datasets: dict[Split, Any]
    transforms: dict[Split, list[FieldTransform]]
    task: Task
    model: nn.Module
    evaluations: dict[str, tuple[EvaluationSpec, Evaluation]]


def assemble(blueprint: Blueprint, *, seed: int) -> Parts:
    """Build everything a run needs, and check it; what takes long, the preparation of the data, last.

    A data set may have a method `prepare` that does its slow work (decoding, say); its constructor should
    check all it can without. One that reads all samples, and takes the argument `skip_unreadable`, is told
    whether to go on without those that it cannot read; they raise when they are asked for. With several
    processes all call this, and an error in one is raised in all.

    Raises:
        ProtocolError: with the JSON paths of all that could not be built.
    """
    device = training_device()
    built = all_or_none(lambda: _build(blueprint, device))
    share_state(built.model)
    parts = all_or_none(lambda: _put_together(blueprint, built, seed=seed, device=device))
    all_or_none(lambda: _prepare(blueprint, built, looked_at=True))
    return parts


def training_device() -> torch.device:
    """The device that this process trains on."""
    # Of Apple's devices the transforms' float64 positions are not known.
    return idist.device() if torch.cuda.is_available() else torch.device("cpu")


def _build(blueprint: Blueprint, device: torch.device) -> _Built:
    """Build the parts that do not depend on others."""
    attempt = _Attempts()
    datasets = attempt(lambda: _build_datasets(blueprint))
    transforms = attempt(lambda: _build_transforms(blueprint))
    task = attempt(lambda: build(blueprint.task, blueprint.protocol.task.args, where="Task"))
    evaluations = attempt(lambda: _build_evaluations(blueprint))
    if attempt.failed:  # then weights need not be fetched to find what else is wrong
        attempt(lambda: try_out_model(without_weights(blueprint)))
    attempt.raise_problems()
    model = build_model(blueprint, device)
    built = _Built(datasets=datasets, transforms=transforms, task=task, model=model, evaluations=evaluations)
    _prepare(blueprint, built, looked_at=False)
    return built


def _check(
    blueprint: Blueprint,
    built: _Built,
    training: SplitLoader,
    plan: ParameterPlan,
    device: torch.device,
) -> list[Finding]:
    """Prepare task and evaluations, and find what a run would fail at later."""
    findings = prepare_and_check(
        blueprint,
        built.datasets,
        model=built.model,
        task=built.task,
        evaluations={name: evaluation for name, (_, evaluation) in built.evaluations.items()},
    )
    refuse_single_values(built.task, built.model, plan, training, blueprint.protocol.setup, device=device)
    return findings


def _prepare(blueprint: Blueprint, built: _Built, *, looked_at: bool) -> None:
    """Have data sets do their slow work: those that can be looked at before, or those that cannot."""
    for dataset in built.datasets.values():
        prepare = getattr(dataset, "prepare", None)
        if callable(prepare) and can_be_looked_at(dataset) == looked_at:
            takes = "skip_unreadable" in inspect.signature(prepare).parameters
            args = {"skip_unreadable": blueprint.protocol.faults.unreadable == "skip"} if takes else {}
            build(prepare, args, where="Dataset")


def _put_together(blueprint: Blueprint, built: _Built, *, seed: int, device: torch.device) -> Parts:
    """Build the remaining parts from those built already."""
    protocol = blueprint.protocol
    datasets, transforms, task, model, evaluations = built
    training, evaluation = _build_loaders(
        blueprint,
        datasets,
        transforms,
        seed=seed,
        device=device,
        takes_unequal_lengths=task.takes_unequal_lengths,
    )
    # As published, the rate is multiplied by the number of devices; here each has a process of its own.
    rate = protocol.setup.rate(world_size())
    plan = apply_rules(model, protocol.parameters)
    optimizer, scheduler = build_optimization(blueprint, plan, rate=rate, batches=len(training))
    average = None
    if optimizer and protocol.setup.ema:
        average = WeightAverage(model, plan, optimizer, decay=protocol.setup.ema)
    raise_errors(_check(blueprint, built, training, plan, device))
    return Parts(
        device=device,
        sizes={split: len(datasets[split]) for split in SPLITS},
        training=training,
        evaluation=evaluation,
        model=model,
        task=task,
        evaluations=evaluations,
        initial_weights=weights_files(model),
        plan=plan,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=loss_scaler(protocol.setup.precision, device),
        average=average,
    )


def with_other_batches(blueprint: Blueprint, parts: Parts, *, seed: int) -> Parts:
    """Return the parts with loaders of another `Setup`: its batch sizes and workers."""
    datasets = {split: parts.evaluation[split].dataset for split in SPLITS}
    training, evaluation = _build_loaders(
        blueprint,
        datasets,
        _build_transforms(blueprint),
        seed=seed,
        device=parts.device,
        takes_unequal_lengths=parts.task.takes_unequal_lengths,
    )
    return replace(parts, training=training, evaluation=evaluation)


def _of_all(batch: int) -> str:
    """How large a batch is that several processes share."""
    return f" of {world_size()} devices together {batch}" if world_size() > 1 else ""


def try_out(blueprint: Blueprint) -> dict[Split, int]:
    """Build what is quick to build, and drop it: a later run of this blueprint will not fail at that.

    Returns:
        The number of samples of each split.

    Raises:
        ProtocolError: with the JSON paths of all that could not be built.
    """
    datasets = _build_quickly(blueprint).datasets
    return {split: len(datasets[split]) for split in SPLITS}


def examine(blueprint: Blueprint, model: nn.Module) -> list[Finding]:
    """Find what a run would not begin with, or fail at later, with a model that is built already.

    A data set is not prepared, which may take hours. One that gives no sample before its `prepare` gets a
    warning that says what was not checked.

    Raises:
        ProtocolError: with the JSON paths of what could not be built, or cannot work.
    """
    built, cpu = _build_quickly(blueprint)._replace(model=model), torch.device("cpu")
    if not all(map(can_be_looked_at, built.datasets.values())):
        return [
            Finding(
                severity="warning",
                what=f"{blueprint.protocol.dataset.path} was not prepared, as that may take long, and gives "
                "no sample before. Not checked: samples, the task, evaluations, metrics, fields of "
                "transforms.",
                remedy="Give it a method look_at(index), which reads one sample without prepare; or start "
                "the run, which checks them once the data set is prepared.",
            )
        ]
    training, _ = _build_loaders(
        blueprint,
        built.datasets,
        built.transforms,
        seed=0,
        device=cpu,
        takes_unequal_lengths=built.task.takes_unequal_lengths,
    )
    return _check(blueprint, built, training, apply_rules(model, blueprint.protocol.parameters), cpu)


def _build_quickly(blueprint: Blueprint) -> _Built:
    """Build what is quick to build: all but the model."""
    attempt = _Attempts()
    built = _Built(
        datasets=attempt(lambda: _build_datasets(blueprint)),
        transforms=attempt(lambda: _build_transforms(blueprint)),
        task=attempt(lambda: build(blueprint.task, blueprint.protocol.task.args, where="Task")),
        model=nn.Module(),
        evaluations=attempt(lambda: _build_evaluations(blueprint)),
    )
    attempt(lambda: require_loggers(blueprint.reporters))
    attempt.raise_problems()
    return built


def require_a_batch(blueprint: Blueprint, samples: int) -> None:
    """Raise a ProtocolError if the `samples` to train on are not one complete batch."""
    setup = blueprint.protocol.setup
    batch = setup.batch_of_all(world_size(), train=True)
    if setup.epochs and samples < batch:
        most = samples * setup.batch_train // batch
        remedy = f"Lower it: -b {most}, or less." if most else "Start fewer processes."
        raise ProtocolError(
            f"Setup.batch_train is {setup.batch_train}{_of_all(batch)}, but the training split has {samples} "
            f"samples: not one complete batch. {remedy}"
        )


def with_largest_batch(blueprint: Blueprint, samples: int) -> Blueprint | None:
    """Return a copy whose training batch fits `samples`; None if fewer than two samples fit."""
    setup = blueprint.protocol.setup
    most = samples * setup.batch_train // setup.batch_of_all(world_size(), train=True)
    if most <= 1:
        return None
    return blueprint.with_setup(batch_train=most)


def try_out_model(blueprint: Blueprint) -> nn.Module:
    """Build the model, apply the rules for its parameters, build what trains it; all on the CPU.

    Raises:
        ProtocolError: with the JSON paths of what could not be built.
    """
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model")
    build_optimization(blueprint, apply_rules(model, blueprint.protocol.parameters), rate=1.0, batches=None)
    return model


def without_weights(blueprint: Blueprint) -> Blueprint:
    """The same, with random weights in place of those that would be fetched.

    Models name their weights by the argument `pretrained`; a path, or false, is kept.
    """
    model = blueprint.protocol.model
    argument = inspect.signature(blueprint.model).parameters.get("pretrained")
    named = model.args.get("pretrained", argument and argument.default)
    is_path = isinstance(named, str) and len(Path(named).parts) > 1
    if named is False or is_path or argument is None:
        return blueprint
    model = model.model_copy(update={"args": {**model.args, "pretrained": False}})
    return replace(blueprint, protocol=blueprint.protocol.model_copy(update={"model": model}))


class _Attempts:
    """Carries out steps that may fail, and keeps what each found wrong, so that all of it is said at once."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def __call__(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except ProtocolError as error:
            self._problems += error.problems
            return None

    @property
    def failed(self) -> bool:
        return bool(self._problems)

    def raise_problems(self) -> None:
        if self._problems:
            raise ProtocolError(self._problems)


def _build_datasets(blueprint: Blueprint) -> dict[Split, Any]:
    """Build both splits, and check what is asked of the two together."""
    datasets = {split: build_dataset(blueprint, split) for split in SPLITS}
    train, test = datasets["train"], datasets["test"]
    if blueprint.protocol.setup.epochs and hold_nothing_out(train, test):
        raise ProtocolError(
            "Dataset.args hold nothing out: both splits are the whole data set, and a model would be "
            f"measured on what it was trained on. Name {to_hold_out(test)}, or set Setup.epochs to 0."
        )
    return datasets


def build_dataset(blueprint: Blueprint, split: Split) -> Any:
    """Build the data set of one split; a ProtocolError if it has no sample."""
    choice = blueprint.split.yes if split == "train" else blueprint.split.no
    dataset = build(
        blueprint.dataset, {**blueprint.dataset_args, blueprint.split.key: choice}, where="Dataset"
    )
    if not isinstance(dataset, Sized):
        raise ProtocolError(f"Dataset.class is {blueprint.protocol.dataset.path}, which has no length.")
    if not len(dataset):
        raise ProtocolError(f"Dataset.args leave the {split} split without a sample.")
    return dataset


def _build_transforms(blueprint: Blueprint) -> dict[Split, list[FieldTransform]]:
    transforms: dict[Split, list[FieldTransform]] = {"train": [], "test": []}
    attempt = _Attempts()
    for index, (spec, make) in enumerate(
        zip(blueprint.protocol.transforms, blueprint.transforms, strict=True)
    ):
        where = f"Transforms[{index}]"
        apply = attempt(partial(build, make, spec.args, where=where))
        for split in SPLITS:
            if getattr(spec, split):
                transforms[split].append(FieldTransform(apply=apply, field=spec.field, where=where))
    attempt.raise_problems()
    return transforms


def _build_evaluations(blueprint: Blueprint) -> dict[str, tuple[EvaluationSpec, Evaluation]]:
    attempt = _Attempts()
    evaluations = {}
    for name, spec in blueprint.protocol.evaluations.items():
        make = partial(build, blueprint.evaluations[name], spec.args, where=f"Evaluations.{name}")
        evaluations[name] = (spec, attempt(make))
    attempt.raise_problems()
    return evaluations


def _build_loaders(
    blueprint: Blueprint,
    datasets: dict[Split, Any],
    transforms: dict[Split, list[FieldTransform]],
    *,
    seed: int,
    device: torch.device,
    takes_unequal_lengths: bool,
) -> tuple[SplitLoader, dict[Split, SplitLoader]]:
    """The training loader and one for the evaluation of each split."""
    setup = blueprint.protocol.setup
    require_a_batch(blueprint, len(datasets["train"]))
    batches = {split: batches_of(dataset, device) for split, dataset in datasets.items()}
    faults = blueprint.protocol.faults
    at_most = faults.unreadable_at_most if faults.unreadable == "skip" else None
    unreadable = {
        split: UnreadableSamples(dataset, split=_SPLIT_NAMES[split], at_most=at_most)
        for split, dataset in datasets.items()
    }
    training = SplitLoader(
        datasets["train"],
        transforms["train"],
        batch_size=setup.batch_of_all(world_size(), train=True),
        workers=setup.workers_train,
        shuffle=blueprint.shuffle,
        drop_last=True,
        seed=seed,
        device=device,
        batches=batches["train"],
        unreadable=unreadable["train"],
    )
    evaluation = {
        split: SplitLoader(
            datasets[split],
            transforms["test"],
            batch_size=setup.batch_of_all(world_size(), train=False),
            workers=setup.workers_test,
            shuffle=False,
            drop_last=False,
            seed=seed,
            device=device,
            unequal_lengths=takes_unequal_lengths,
            batches=batches[split],
            unreadable=unreadable[split],
        )
        for split in SPLITS
    }
    return training, evaluation
