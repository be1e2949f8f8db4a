"""The classes that a protocol names: imported, and checked with their arguments, but not instantiated."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ignite.handlers.base_logger import BaseLogger
from ignite.metrics import Metric
from pydantic import ValidationError
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.reporter import Reporter
from ignite_trainer.api.task import EmbeddingTask, Task
from ignite_trainer.api.yardstick import Yardstick
from ignite_trainer.protocol.instantiate import build, check_arguments, resolve, resolve_callable
from ignite_trainer.protocol.sections import ClassSpec, Protocol, ScheduleSpec, SplitArgument
from ignite_trainer.support.errors import ProtocolError

_LOADER_ARGUMENTS = ("training", "dl_shuffle")


class Kind(NamedTuple):
    """The kind of classes in a section: their base class, and the arguments that the trainer supplies."""

    base: type[Any]
    supplied: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "Model": Kind(nn.Module),
    "Task": Kind(Task),
    "Optimizer": Kind(Optimizer, supplied=("params",)),
    "Scheduler": Kind(LRScheduler, supplied=("optimizer",)),
    "Dataset": Kind(Dataset, supplied=("train",)),
    "Transforms": Kind(object),  # any class with __call__ that belongs to no other section
    "Metrics": Kind(Metric, supplied=("output_transform",)),
    "Evaluations": Kind(Evaluation),
    "Yardsticks": Kind(Yardstick),
    "Reporters": Kind(Reporter),
}
_DEFAULT_REPORTERS = [
    ClassSpec(path=f"ignite_trainer.reporters.{name}")
    for name in ("Console", "JsonLines", "LearningCurve", "Report", "Visdom")
]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A protocol and its classes.

    Attributes:
        protocol: validated protocol.
        model: class of the model.
        task: class of the task.
        task_args: arguments of the task; an argument that names a model is a function that builds it.
        optimizer: class of the optimizer; None if nothing is trained.
        schedulers: classes of the schedulers, in order.
        dataset: class of the data set.
        transforms: for each entry of `Transforms`, the class or function to call with its arguments.
        metrics: class of each line, keyed by the line's JSON path.
        evaluations: class of each entry, by name.
        yardsticks: class of each entry, by name; empty if `draw` did not include them.
        dataset_args: arguments of the data set, without the loader's arguments.
        split: argument that selects the training or the held-out split.
        shuffle: whether the training split is shuffled.
        reporters: classes with their arguments, including ignite's loggers.
    """

    protocol: Protocol
    model: type[nn.Module]
    task: type[Task]
    task_args: Mapping[str, Any]
    optimizer: type[Optimizer] | None
    schedulers: list[type[LRScheduler]]
    dataset: type[Dataset[Any]]
    transforms: list[Callable[..., Callable[..., Any]]]
    metrics: dict[str, type[Metric]]
    evaluations: dict[str, type[Evaluation]]
    yardsticks: dict[str, type[Yardstick]]
    dataset_args: Mapping[str, Any]
    split: SplitArgument
    shuffle: bool
    reporters: list[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]]

    @property
    def classes(self) -> dict[str, type]:
        """The classes of `Dataset` and `Model`, which may declare the effects of their arguments."""
        return {"Dataset": self.dataset, "Model": self.model}

    def with_setup(self, **changes: Any) -> Blueprint:
        """Return a copy with changed values in `Setup`."""
        setup = self.protocol.setup.model_copy(update=changes)
        return replace(self, protocol=self.protocol.model_copy(update={"setup": setup}))


def draw(
    protocol: Protocol,
    *,
    trusted: Iterable[str] = (),
    source: str | None = None,
    yardsticks: bool = False,
) -> Blueprint:
    """Import every class in a protocol, and compare its arguments with its signature.

    Args:
        protocol: validated protocol.
        trusted: packages whose classes are allowed in addition to `TRUSTED_PACKAGES`.
        source: file of the protocol, for messages.
        yardsticks: whether to include `Yardsticks`, which runs do not need.

    Raises:
        ProtocolError: A class or an argument is invalid. The error lists every problem in the protocol.
    """
    find = _Finder(frozenset(trusted))
    split, shuffle = find.loader_arguments(protocol.dataset.args)
    dataset_args = {
        key: value for key, value in protocol.dataset.args.items() if key not in _LOADER_ARGUMENTS
    }
    dataset = protocol.dataset.model_copy(update={"args": dataset_args})
    blueprint = Blueprint(
        protocol=protocol,
        optimizer=find.optimizer(protocol),
        schedulers=find.schedulers(protocol),
        model=find.find(protocol.model, "Model"),
        task=find.task(protocol),
        task_args=find.with_models(protocol.task.args, "Task.args"),
        dataset=find.find(dataset, "Dataset", supplied=(split.key,)),
        transforms=[
            find.callable(spec, f"Transforms[{index}]") for index, spec in enumerate(protocol.transforms)
        ],
        metrics={where: find.find(line, "Metrics", where) for where, line in protocol.lines.items()},
        evaluations=find.by_name(protocol.evaluations, "Evaluations"),
        yardsticks=find.by_name(protocol.yardsticks if yardsticks else {}, "Yardsticks"),
        reporters=find.reporters(protocol),
        dataset_args=dataset_args,
        split=split,
        shuffle=shuffle,
    )
    if find.problems:
        raise ProtocolError(find.problems, source=source)
    return blueprint


class _Finder:
    """Imports classes and collects problems, so that all are reported at once.

    If a class cannot be found, the base class of its section takes its place.
    """

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self.problems: list[str] = []

    def find(
        self,
        spec: ClassSpec,
        section: str,
        where: str | None = None,
        *,
        supplied: tuple[str, ...] | None = None,
    ) -> type[Any]:
        kind, where = KINDS[section], where or section
        try:
            found = resolve(spec, kind.base, where=where, trusted=self._trusted)
        except ProtocolError as error:
            self.problems += error.problems
            return kind.base
        lengths = spec.lengths(found) if isinstance(spec, ScheduleSpec) else {}
        self.problems += check_arguments(
            found, {**lengths, **spec.args}, where=f"{where}.args", supplied=supplied or kind.supplied
        )
        return found

    def by_name(self, specs: Mapping[str, ClassSpec], section: str) -> dict[str, type[Any]]:
        return {name: self.find(spec, section, f"{section}.{name}") for name, spec in specs.items()}

    def callable(self, spec: ClassSpec, where: str) -> Callable[..., Callable[..., Any]]:
        try:
            found = resolve_callable(spec, where=where, trusted=self._trusted)
        except ProtocolError as error:
            self.problems += error.problems
            return lambda: lambda value: value
        self.problems += check_arguments(found, spec.args, where=f"{where}.args")
        return found

    def optimizer(self, protocol: Protocol) -> type[Optimizer] | None:
        """Find the optimizer, and check the arguments for its groups in the parameter rules."""
        if protocol.optimizer is None:
            return None
        found = self.find(protocol.optimizer, "Optimizer")
        taken = inspect.signature(found).parameters
        for index, rule in enumerate(protocol.parameters) if found is not Optimizer else ():
            for key, value, argument in (
                ("depth_decay", rule.depth_decay, "lr"),
                ("weight_decay_of", rule.weight_decay_of, "weight_decay"),
            ):
                if value not in (None, "all") and argument not in taken:
                    self.problems.append(
                        f"Parameters[{index}].{key} is {json.dumps(value)}, but {found.__name__} has no "
                        f"argument {argument}. Remove {key}, or choose another Optimizer."
                    )
            where, args = f"Parameters[{index}].args", protocol.optimizer.args | rule.args
            problems = check_arguments(found, args, where=where, supplied=KINDS["Optimizer"].supplied)
            self.problems += [
                problem for problem in problems if any(f"{where}.{key} " in problem for key in rule.args)
            ]
        return found

    def schedulers(self, protocol: Protocol) -> list[type[LRScheduler]]:
        found, specs = [], protocol.schedules
        by_depth = any(rule.depth_decay for rule in protocol.parameters)
        for where, spec in specs.items():
            kind = self.find(spec, "Scheduler", where)
            found.append(kind)
            if check_arguments(kind.step, {"self": None}, where=where):
                self.problems.append(
                    f"{where}.class is {kind.__name__}, whose step needs arguments that the trainer "
                    "does not have. Choose another."
                )
            has_own_rates = "max_lr" in inspect.signature(kind).parameters
            if has_own_rates and by_depth:
                self.problems.append(
                    f"{where}.class is {kind.__name__}, which has rates of its own, so depth_decay in "
                    "Parameters has no effect. Choose another, such as "
                    "ignite_trainer.training.schedules.WarmUpCosine, or remove depth_decay."
                )
            if len(specs) > 1 and has_own_rates:
                self.problems.append(
                    f"{where}.class is {kind.__name__}, which is a whole schedule with rates of its own. Use "
                    "it alone, not in a list."
                )
        return found

    def task(self, protocol: Protocol) -> type[Task]:
        found = self.find(protocol.task, "Task")
        if protocol.setup.chunk and found is not Task and not issubclass(found, EmbeddingTask):
            self.problems.append(
                f"Setup.chunk is {protocol.setup.chunk}, but the loss of {found.__name__} does not compare "
                "embeddings. Set it to null; Setup.accumulate makes large steps of small batches."
            )
        return found

    def with_models(self, args: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Replace each argument that names a model, such as a teacher, by a function that builds it."""
        found = dict(args)
        for name, value in args.items():
            if isinstance(value, dict) and "class" in value and value.keys() <= {"class", "args"}:
                try:
                    spec = ClassSpec.model_validate(value)
                except ValidationError:  # an object that only looks like a class; the task will check it
                    continue
                place = f"{where}.{name}"
                found[name] = functools.partial(
                    build, self.find(spec, "Model", place), spec.args, where=place
                )
        return found

    def reporters(self, protocol: Protocol) -> list[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]]:
        """Find reporters, which may take a section's keys as arguments, and ignite's loggers."""
        found: list[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]] = []
        specs = _DEFAULT_REPORTERS if protocol.reporters is None else protocol.reporters
        content = protocol.to_json()
        for index, spec in enumerate(specs):
            where = f"Reporters[{index}]"
            try:
                logger = resolve(spec, BaseLogger, where=where, trusted=self._trusted)
                found.append((logger, spec.args))
            except ProtocolError:
                kind = self.find(spec, "Reporters", where)
                section = content[kind.section] if kind.section else {}
                found.append((kind, {**section, **spec.args}))
        return found

    def loader_arguments(self, args: Mapping[str, Any]) -> tuple[SplitArgument, bool]:
        """Read the loader's arguments, which are in `Dataset.args` as published: splits and shuffling."""
        split = SplitArgument(key="train", yes=True, no=False)
        try:
            split = SplitArgument.model_validate(args.get("training", split))
        except ValidationError:
            self.problems.append(
                "Dataset.args.training names the argument that selects the split, and its two values; "
                'write {"key": "train", "yes": true, "no": false}.'
            )
        shuffle = args.get("dl_shuffle", True)
        if not isinstance(shuffle, bool):
            self.problems.append(f"Dataset.args.dl_shuffle is {shuffle!r}, but must be true or false.")
        return split, bool(shuffle)
