"""The classes a protocol names: found, of the right kind, with arguments they have. Nothing is built here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

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
from ignite_trainer.protocol.instantiate import check_arguments, resolve, resolve_callable
from ignite_trainer.protocol.known_classes import (
    DATASET,
    EVALUATION,
    METRIC,
    MODEL,
    OPTIMIZER,
    REPORTER,
    SCHEDULER,
    TASK,
    YARDSTICK,
    Kind,
)
from ignite_trainer.protocol.sections import ClassSpec, ParameterRule, Protocol, ScheduleSpec, SplitArgument
from ignite_trainer.support.errors import ProtocolError

T = TypeVar("T")

_DEFAULT_REPORTERS = [
    ClassSpec(path=f"ignite_trainer.reporters.{name}")
    for name in ("Console", "JsonLines", "LearningCurve", "Report", "Visdom")
]
_LOADER_ARGUMENTS = ("training", "dl_shuffle")


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A protocol and its classes.

    Attributes:
        protocol: the protocol.
        transforms: for each entry of `Transforms` what makes it, called with its arguments.
        metrics: the class of every line, by the line's JSON path.
        evaluations: classes by the names of the entries.
        yardsticks: likewise.
        optimizer: None where nothing is trained.
        schedulers: in their turn.
        dataset_args: the data set's own arguments; those of the loader are apart.
        split: the argument that tells the training split from the held-out one.
        shuffle: whether the training split is shuffled.
        reporters: classes with their arguments; ignite's own loggers among them.
    """

    protocol: Protocol
    model: type[nn.Module]
    task: type[Task]
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
        """The classes of `Dataset` and `Model`, which may say what their arguments affect."""
        return {"Dataset": self.dataset, "Model": self.model}

    def with_setup(self, **changes: Any) -> Blueprint:
        """Return a copy with other values of keys of `Setup`."""
        setup = self.protocol.setup.model_copy(update=changes)
        return replace(self, protocol=self.protocol.model_copy(update={"setup": setup}))


def draw(protocol: Protocol, *, trusted: Iterable[str] = (), source: str | None = None) -> Blueprint:
    """Find every class of a protocol and hold its arguments against the class's signature.

    Args:
        protocol: a validated protocol.
        trusted: packages whose classes it may name besides the usual ones.
        source: the file it was read from, for messages.

    Raises:
        ProtocolError: with every problem of the whole protocol.
    """
    find = _Finder(frozenset(trusted))
    split, shuffle = _loader_arguments(protocol.dataset.args, find.problems)
    dataset_args = {
        key: value for key, value in protocol.dataset.args.items() if key not in _LOADER_ARGUMENTS
    }
    optimizer = None
    if protocol.optimizer:
        optimizer = find.find(protocol.optimizer, OPTIMIZER, "Optimizer")
        find.check_groups(protocol.parameters, protocol.optimizer, optimizer)
    schedulers = [find.scheduler(spec, where) for where, spec in protocol.schedules.items()]
    if len(schedulers) > 1:
        find.check_turns(schedulers)
    task = find.find(protocol.task, TASK, "Task")
    find.check_parts(protocol, task)
    blueprint = Blueprint(
        protocol=protocol,
        model=find.find(protocol.model, MODEL, "Model"),
        task=task,
        optimizer=optimizer,
        schedulers=schedulers,
        dataset=find.find(
            ClassSpec(path=protocol.dataset.path, args=dataset_args),
            replace(DATASET, supplied=(split.key,)),
            "Dataset",
        ),
        transforms=[
            find.callable(spec, f"Transforms[{index}]") for index, spec in enumerate(protocol.transforms)
        ],
        metrics={where: find.find(line, METRIC, where) for where, line in protocol.lines.items()},
        evaluations={
            name: find.find(spec, EVALUATION, f"Evaluations.{name}")
            for name, spec in protocol.evaluations.items()
        },
        dataset_args=dataset_args,
        split=split,
        shuffle=shuffle,
        yardsticks={
            name: find.find(spec, YARDSTICK, f"Yardsticks.{name}")
            for name, spec in protocol.yardsticks.items()
        },
        reporters=find.reporters(protocol),
    )
    if find.problems:
        raise ProtocolError(find.problems, source=source)
    return blueprint


class _Finder:
    """Finds classes and collects what is wrong with them, so that all of it can be said at once."""

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self.problems: list[str] = []

    def find(self, spec: ClassSpec, kind: Kind[T], where: str) -> type[T]:
        try:
            found = resolve(spec, kind.base, where=where, trusted=self._trusted)
        except ProtocolError as error:
            self.problems += error.problems
            return kind.base  # stands in until the problems are raised
        self.problems += check_arguments(found, spec.args, where=f"{where}.args", supplied=kind.supplied)
        return found

    def callable(self, spec: ClassSpec, where: str) -> Callable[..., Callable[..., Any]]:
        try:
            found = resolve_callable(spec, where=where, trusted=self._trusted)
        except ProtocolError as error:
            self.problems += error.problems
            return lambda: lambda value: value
        self.problems += check_arguments(found, spec.args, where=f"{where}.args")
        return found

    def scheduler(self, spec: ScheduleSpec, where: str) -> type[LRScheduler]:
        """The class of a scheduler; of its arguments the trainer may supply the length."""
        try:
            found = resolve(spec, SCHEDULER.base, where=where, trusted=self._trusted)
        except ProtocolError:
            found = SCHEDULER.base
        args = {**spec.lengths(found), **spec.args}
        found = self.find(spec.model_copy(update={"args": args}), SCHEDULER, where)
        self.check_step(found, where)
        return found

    def check_turns(self, schedulers: list[type[LRScheduler]]) -> None:
        """Of several schedulers each begins at the optimizer's rates; one that sets its own cannot."""
        for index, kind in enumerate(schedulers):
            if "max_lr" in inspect.signature(kind).parameters:
                self.problems.append(
                    f"Scheduler[{index}].class is {kind.__name__}, which sets rates of its own from the "
                    "beginning: a whole schedule, which takes no turns. Name it alone."
                )

    def check_step(self, scheduler: type[LRScheduler], where: str) -> None:
        """The trainer knows nothing that a scheduler could ask for at its step."""
        if check_arguments(scheduler.step, {"self": None}, where=where):
            self.problems.append(
                f"{where}.class is {scheduler.__name__}, whose step takes arguments; the trainer calls it "
                "without. Choose another."
            )

    def check_parts(self, protocol: Protocol, task: type[Task]) -> None:
        """A batch can be embedded in parts by tasks that embed; one that was not found may be such."""
        if protocol.setup.chunk and task is not Task and not issubclass(task, EmbeddingTask):
            self.problems.append(
                f"Setup.chunk is {protocol.setup.chunk}, and the loss of {task.__name__} is no comparison of "
                "embeddings. Set it to null; Setup.accumulate makes large steps of small batches."
            )

    def check_groups(
        self, rules: Iterable[ParameterRule], spec: ClassSpec, optimizer: type[Optimizer]
    ) -> None:
        """Optimizer arguments of the parameter rules; an optimizer that was not found takes none."""
        if optimizer is Optimizer:
            return
        for index, rule in enumerate(rules):
            where = f"Parameters[{index}].args"
            required = spec.args | rule.args
            unknown = check_arguments(optimizer, required, where=where, supplied=OPTIMIZER.supplied)
            self.problems += [
                problem for problem in unknown if any(f"{where}.{key} " in problem for key in rule.args)
            ]

    def reporters(self, protocol: Protocol) -> list[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]]:
        found: list[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]] = []
        specs = _DEFAULT_REPORTERS if protocol.reporters is None else protocol.reporters
        content = protocol.to_json()
        for index, spec in enumerate(specs):
            if logger := self.logger_of_ignite(spec, f"Reporters[{index}]"):
                found.append((logger, spec.args))
                continue
            kind = self.find(spec, REPORTER, f"Reporters[{index}]")
            section = content[kind.section] if kind.section else {}
            found.append((kind, {**section, **spec.args}))
        return found

    def logger_of_ignite(self, spec: ClassSpec, where: str) -> type[BaseLogger] | None:
        """Return the class of an entry of `Reporters` if it is one of ignite's loggers, else None.

        These take any arguments.
        """
        try:
            return resolve(spec, BaseLogger, where=where, trusted=self._trusted)
        except ProtocolError:
            return None


def _loader_arguments(args: Mapping[str, Any], problems: list[str]) -> tuple[SplitArgument, bool]:
    """The arguments in `Dataset.args` that are the loader's, as published: which split, and in what order."""
    split = SplitArgument(key="train", yes=True, no=False)
    try:
        split = SplitArgument.model_validate(args.get("training", split))
    except ValidationError:
        problems.append(
            "Dataset.args.training names the argument that chooses the split, and its two values; "
            'write {"key": "train", "yes": true, "no": false}.'
        )
    shuffle = args.get("dl_shuffle", True)
    if not isinstance(shuffle, bool):
        problems.append(f"Dataset.args.dl_shuffle is {shuffle!r}; write true or false.")
    return split, bool(shuffle)
