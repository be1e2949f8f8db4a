"""Everything that can be known before a run: protocol, data, model and its weights, room on the disks.

Nothing is trained. What a run would fetch first is fetched.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ignite_trainer import results
from ignite_trainer.assembly import (
    examine,
    require_a_batch,
    training_device,
    try_out,
    try_out_model,
    with_largest_batch,
    without_weights,
)
from ignite_trainer.blueprint import Blueprint, draw
from ignite_trainer.check_report import show_findings
from ignite_trainer.check_room import memory_findings, room_findings
from ignite_trainer.checkpoints import BEST_KEPT
from ignite_trainer.combinations import combinations, is_fold
from ignite_trainer.errors import ProtocolError
from ignite_trainer.inspection import Finding, Inspection, Space
from ignite_trainer.instantiate import build
from ignite_trainer.protocol import Protocol
from ignite_trainer.record import digest
from ignite_trainer.reporters.reporter import Split
from ignite_trainer.self_description import other_weights, weights_files

_COUNTED = "weights, gradients and optimizer (--explain measures the batches, too)"
_OPTIMIZER_STATE = 2  # numbers for each trained one: those of Adam, more than most optimizers have
_LAST_KEPT = 3  # while a run goes on its last two states, and the next one until it is complete


@dataclass
class Checked:
    """What was found of one protocol.

    Attributes:
        findings: each once, errors first.
        facts: in a line each what was looked at, by name.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether there is an error among the findings."""
        return any(finding.severity == "error" for finding in self.findings)


def carry_out(loads: Mapping[Path, Callable[[], Protocol]], *, trusted: Iterable[str] = ()) -> int:
    """Check protocols and print a report of each.

    Args:
        loads: what reads and validates each, by its file.
        trusted: packages whose classes they may name besides the usual ones.

    Returns:
        0 if no error was found, 1 if one was, 2 if a protocol cannot be read.
    """
    checker = Checker(trusted)
    status = 0
    for path, load in loads.items():
        started = time.monotonic()
        try:
            found = checker.check(load())
            code = 1 if found.failed else 0
        except ProtocolError as error:
            where = "" if error.source in (None, str(path)) else str(error.source)
            found = Checked(findings=[replace(one, where=where) for one in _of_problems(error.problems)])
            code = 2
        show_findings(str(path), found.findings, found.facts, seconds=time.monotonic() - started)
        status = max(status, code)
    return status


class Checker:
    """Checks protocols; what several of them share (data, a model) is looked at once."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = frozenset(trusted)
        self._data: dict[str, Inspection] = {}
        self._models: dict[str, _ModelChecked] = {}
        self._tried: dict[str, tuple[dict[Split, int] | None, list[str]]] = {}  # sizes of splits, problems
        self._examined: dict[str, list[Finding]] = {}
        self._built: tuple[str, nn.Module | None] = ("", None)  # the last model

    def check(self, protocol: Protocol) -> Checked:
        """Check a validated protocol; of one with a sweep every run."""
        found = Checked()
        runs, problems = self._runs(protocol)
        if problems:
            found.findings += _of_problems(problems)
        if not runs:
            found.facts["Data and model"] = "not looked at: first mend what the protocol names"
            return found
        spaces: list[Space] = []
        for blueprint in runs:
            data = self._inspect_data(blueprint)
            args = {**blueprint.dataset_args, **data.to_build}
            blueprint = replace(blueprint, dataset_args=args)  # noqa: PLW2901 - the run that is checked
            data_fails = any(finding.severity == "error" for finding in data.findings)
            problems = self._try_out(blueprint, data_fails=data_fails)
            found.findings += [*data.findings, *_of_problems(problems)]
            # Weights that are not there yet are fetched only for data that are.
            sizes, tried = self._tried[self._key(blueprint)]
            there = not data.to_build and not any(problem.startswith("Dataset") for problem in tried)
            checked = blueprint if there else without_weights(blueprint)
            if checked is not blueprint:
                found.facts.setdefault("Weights", "not looked at: first mend the data")
            blueprint = checked  # noqa: PLW2901
            model = self._try_model(blueprint)
            found.findings += model.findings
            if sizes is not None:
                found.findings += self._check_batch_and_task(blueprint, sizes["train"], built=model.built)
            found.facts |= {"Data": data.summary} if data.summary else {}
            found.facts |= {"Weights": model.weights} if model.weights else {}
            spaces += [*(space for space in data.space if space not in spaces), *model.space(blueprint)]
            if model.built:
                found.findings += memory_findings(
                    model.memory_bytes(blueprint), training_device(), found.facts, at_least_for=_COUNTED
                )
            else:
                found.facts["Memory"] = "not known: the model could not be built"
        found.findings += room_findings(spaces, found.facts)
        found.findings = sorted(dict.fromkeys(found.findings), key=lambda finding: finding.severity)
        return found

    def _runs(self, protocol: Protocol) -> tuple[list[Blueprint], list[str]]:
        """The runs of a protocol; where not all of a sweep can be, what is wrong and its base alone."""
        problems: list[str] = []
        try:
            if protocol.sweep:
                runs = combinations(protocol, trusted=self._trusted, building=False)
                return [draw(run.protocol, trusted=self._trusted) for run in runs], []
        except ProtocolError as error:
            problems = error.problems
        try:
            return [draw(protocol.model_copy(update={"sweep": {}}), trusted=self._trusted)], problems
        except ProtocolError as error:
            return [], list(dict.fromkeys([*problems, *error.problems]))

    def _inspect_data(self, blueprint: Blueprint) -> Inspection:
        """Ask the class of the data set for its findings, once for all folds."""
        inspect = getattr(blueprint.dataset, "inspect_data", None)
        args = blueprint.dataset_args
        but_fold = {key: value is not None if is_fold(f".{key}") else value for key, value in args.items()}
        key = digest([blueprint.protocol.dataset.path, but_fold])
        if key not in self._data:
            look = Inspection if inspect is None else lambda: build(inspect, args, where="Dataset")
            inspection, problems = _attempt(look, "Dataset")
            self._data[key] = inspection or Inspection(findings=tuple(_of_problems(problems)))
        return self._data[key]

    def _try_out(self, blueprint: Blueprint, *, data_fails: bool) -> list[str]:
        """Problems of what is quick to build; of a data set that fails only those that are of the fold."""
        key = self._key(blueprint)
        if key not in self._tried:
            self._tried[key] = _attempt(lambda: try_out(blueprint), "Dataset, Transforms or Task")
        return [
            problem
            for problem in self._tried[key][1]
            if not (data_fails and problem.startswith("Dataset")) or problem.startswith("Dataset.args.fold ")
        ]

    def _key(self, blueprint: Blueprint) -> str:
        """Runs whose data and task are alike."""
        content = blueprint.protocol.to_json()
        sections = [content[name] for name in ("Dataset", "Transforms", "Task", "Evaluations", "Reporters")]
        return digest([*sections, bool(blueprint.protocol.setup.epochs)])

    def _check_batch_and_task(self, blueprint: Blueprint, samples: int, *, built: bool) -> list[Finding]:
        """Find a batch larger than the training split; then ask the task, with a batch that fits."""
        _, problems = _attempt(lambda: require_a_batch(blueprint, samples), "Setup")
        fitting = with_largest_batch(blueprint, samples) if problems else blueprint
        return [*_of_problems(problems), *(self._examine(fitting) if built and fitting else [])]

    def _examine(self, blueprint: Blueprint) -> list[Finding]:
        """Ask the task, the evaluations and the metrics of a run whose parts can all be built."""
        key, model = self._built
        if model is None or key != _model_key(blueprint):
            model, _ = _attempt(lambda: try_out_model(blueprint), "Model")
            self._built = (_model_key(blueprint), model)
            gc.collect()
        if model is None:
            return []
        content, setup = blueprint.protocol.to_json(), blueprint.protocol.setup
        batches = setup.model_dump(
            include={"batch_train", "batch_test", "batch_of", "chunk", "precision", "epochs"}
        )
        examined = digest([_model_key(blueprint), self._key(blueprint), content["Metrics"], batches])
        if examined not in self._examined:
            findings, problems = _attempt(lambda: examine(blueprint, model), "Task")
            self._examined[examined] = findings or _of_problems(problems)
        return self._examined[examined]

    def _try_model(self, blueprint: Blueprint) -> _ModelChecked:
        key = _model_key(blueprint)
        if key not in self._models:
            self._built = ("", None)
            model, problems = _attempt(lambda: try_out_model(blueprint), "Model")
            self._models[key] = _ModelChecked.of(model, problems)
            self._built = (key, model)
            gc.collect()
        return self._models[key]


@dataclass(frozen=True, kw_only=True)
class _ModelChecked:
    """What is kept of a model that was built."""

    findings: tuple[Finding, ...]
    built: bool = True
    weights: str = ""
    size_bytes: int = 0
    trained_bytes: int = 0
    frozen_bytes: int = 0

    @classmethod
    def of(cls, model: nn.Module | None, problems: Sequence[str]) -> _ModelChecked:
        if model is None:
            return cls(findings=tuple(_of_problems(problems)), built=False)
        others = [
            Finding(
                severity="error",
                what="A file of weights is damaged, or not the one it is named for: another sha256.",
                where=str(path),
                remedy="Take it away and fetch it again, or name it otherwise.",
            )
            for path in other_weights(model)
        ]
        files = [f"{file.name} (sha256 {file.sha256[:12]}...)" for file in weights_files(model)]
        return cls(
            findings=tuple(others),
            weights=", ".join(files),
            size_bytes=sum(value.nbytes for value in _tensors(model.state_dict())),
            trained_bytes=sum(value.nbytes for value in model.parameters() if value.requires_grad),
            frozen_bytes=sum(value.nbytes for value in model.parameters() if not value.requires_grad),
        )

    def memory_bytes(self, blueprint: Blueprint) -> int:
        """The least that a run takes: weights, gradients, and what the optimizer of most runs keeps.

        Activations are not in it, which go with the batch; `--explain` measures them.
        """
        trains = bool(blueprint.protocol.setup.epochs)
        return self.size_bytes + trains * (1 + _OPTIMIZER_STATE) * self.trained_bytes

    def space(self, blueprint: Blueprint) -> list[Space]:
        """Room for the results of one run: its checkpoints, if it trains."""
        protocol = blueprint.protocol
        lines = [line for line in protocol.lines.values() if line.is_checkpoint]
        # Epoch 0 is one of them; a superseded one is there until the next state is saved.
        kept = min(BEST_KEPT, protocol.setup.epochs) + 1
        best = kept * len(lines) * self.size_bytes
        copies = _OPTIMIZER_STATE + bool(protocol.setup.ema)
        last = _LAST_KEPT * (self.size_bytes - self.frozen_bytes + copies * self.trained_bytes)
        size = None
        if self.built:
            size = best + last + self.frozen_bytes if protocol.setup.epochs else 0
        return [Space(folder=results.root_of(protocol), size_bytes=size, purpose="checkpoints")]


def _model_key(blueprint: Blueprint) -> str:
    """Runs whose models are alike."""
    content, setup = blueprint.protocol.to_json(), blueprint.protocol.setup
    sections = [content[name] for name in ("Model", "Parameters", "Optimizer", "Scheduler")]
    return digest([*sections, setup.precision, setup.epochs])


def checkpoint_space(blueprint: Blueprint, model: nn.Module) -> list[Space]:
    """Room for the results of one run of a model that is built."""
    return _ModelChecked.of(model, []).space(blueprint)


def _attempt(step: Callable[[], Any], where: str) -> tuple[Any, list[str]]:
    """The result of a step, None if it fails; then what is wrong."""
    try:
        return step(), []
    except ProtocolError as error:
        return None, error.problems
    except Exception as error:  # classes of a protocol may raise anything
        return None, [f"{where}: {type(error).__name__}: {error}"]


def _of_problems(problems: Iterable[str]) -> list[Finding]:
    return [Finding(severity="error", what=problem) for problem in problems]


def _tensors(state: Mapping[str, Any]) -> list[Any]:
    return [value for value in state.values() if hasattr(value, "nbytes")]
