"""`--check`: finds problems with the protocol, data, model, weights, disk space and memory before a run.

It trains nothing, but fetches whatever a run would fetch first.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ignite_trainer.api.findings import NAMED, Finding, Inspection, Space, kinds
from ignite_trainer.api.self_description import weights_files
from ignite_trainer.commands.check_room import (
    ModelSize,
    checkpoint_space,
    least_memory,
    memory_findings,
    room_findings,
)
from ignite_trainer.commands.sweeps.combinations import combinations, is_fold
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.identity import digest
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs.assembly import training_device
from ignite_trainer.runs.construction import require_a_batch, try_out, with_largest_batch
from ignite_trainer.runs.model_preparation import try_out_model, with_random_weights
from ignite_trainer.runs.preflight import damaged_weights, examine
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.formatting import duration, escaped
from ignite_trainer.support.terminal import show, show_rows

_COUNTED = "weights, gradients and optimizer (--explain also measures the batches)"


@dataclass
class CheckResult:
    """Result of the check of one protocol.

    Attributes:
        findings: findings without duplicates, errors first.
        facts: one line for each thing checked, keyed by its name.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


class _ModelCheck(NamedTuple):
    findings: tuple[Finding, ...]
    weights: str
    size: ModelSize


def check_all(loaders: Mapping[Path, Callable[[], Protocol]], *, trusted: Iterable[str] = ()) -> int:
    """Load and check the protocols of files, and print a report for each.

    Returns:
        0 without errors, 1 with errors, 2 if a protocol cannot be read.
    """
    checker = Checker(trusted)
    status = 0
    for path, load in loaders.items():
        started = time.monotonic()
        try:
            found = checker.check(load())
            code = int(_has_error(found.findings))
        except ProtocolError as error:
            where = "" if error.source in (None, str(path)) else str(error.source)
            found = CheckResult(findings=_errors(error.problems, where=where))
            code = 2
        _show(str(path), found, seconds=time.monotonic() - started)
        status = max(status, code)
    return status


class Checker:
    """Checks protocols. Data and models that several protocols share are checked once."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = frozenset(trusted)
        self._done: dict[str, tuple[Any, list[str]]] = {}
        self._last_model: tuple[str, nn.Module] | None = None

    def check(self, protocol: Protocol) -> CheckResult:
        """Check a validated protocol, including all runs of its sweep."""
        found = CheckResult()
        runs, problems = self._runs(protocol)
        found.findings += _errors(problems)
        if not runs:
            found.facts["Data and model"] = "not checked: fix the protocol first"
            return found
        spaces: list[Space] = []
        for run in runs:
            self._check_run(run, found, spaces)
        found.findings += room_findings(spaces, found.facts)
        found.findings = sorted(dict.fromkeys(found.findings), key=lambda finding: finding.severity)
        return found

    def _runs(self, protocol: Protocol) -> tuple[list[Blueprint], list[str]]:
        """Make the blueprints of all runs.

        If some combinations of a sweep are invalid, return the problems and the protocol's own run.
        """
        runs, problems = list[Blueprint](), list[str]()
        try:
            if protocol.sweep:
                found = combinations(protocol, trusted=self._trusted, building=False)
                runs = [run.blueprint for run in found]
        except ProtocolError as error:
            problems = error.problems
        try:
            single = draw(protocol.model_copy(update={"sweep": {}}), trusted=self._trusted, yardsticks=True)
            runs = runs or [single]
        except ProtocolError as error:
            problems = list(dict.fromkeys([*problems, *error.problems]))
        return runs, problems

    def _check_run(self, run: Blueprint, found: CheckResult, spaces: list[Space]) -> None:
        """Check one run; add its results to `found`, and the disk space that it needs to `spaces`."""
        data = self._inspect_data(run)
        run = replace(run, dataset_args={**run.dataset_args, **data.to_build})
        sizes, problems = self._once("Dataset, Transforms or Task", partial(try_out, run), *_data_key(run))
        of_data = [problem for problem in problems if problem.startswith("Dataset")]
        if of_data or data.to_build:  # weights are fetched only if the data are available
            complete, run = run, with_random_weights(run)
            if run is not complete:
                found.facts.setdefault("Weights", "not checked: fix the data first")
        if _has_error(data.findings):  # the findings already say why the data set cannot be built
            explained = [problem for problem in of_data if not problem.startswith("Dataset.args.fold ")]
            problems = [problem for problem in problems if problem not in explained]
        found.findings += [*data.findings, *_errors(problems)]
        if data.summary:
            found.facts["Data"] = data.summary
        spaces += [space for space in data.space if space not in spaces]

        model, problems = self._once("Model", partial(self._check_model, run), *_model_key(run))
        found.findings += _errors(problems)
        if sizes is not None:
            _, problems = _attempt("Setup", partial(require_a_batch, run, sizes["train"]))
            found.findings += _errors(problems)
            fitting = with_largest_batch(run, sizes["train"]) if problems else run
            if model and fitting:
                found.findings += self._examine(fitting)
        spaces.append(checkpoint_space(run.protocol, model.size if model else None))
        if model is None:
            found.facts["Memory"] = "unknown until the errors are fixed"
            return
        found.findings += model.findings
        if model.weights:
            found.facts["Weights"] = model.weights
        needed = least_memory(run.protocol, model.size)
        found.findings += memory_findings(needed, training_device(), found.facts, at_least_for=_COUNTED)

    def _inspect_data(self, run: Blueprint) -> Inspection:
        """Call `inspect_data` of the data set's class, once for all folds."""
        inspect = getattr(run.dataset, "inspect_data", None)
        args = run.dataset_args
        if run.split.yes == run.split.no:
            args = {**args, run.split.key: run.split.yes}
        but_fold = {key: value is not None if is_fold(f".{key}") else value for key, value in args.items()}
        look = partial(build, inspect, args, where="Dataset") if inspect else Inspection
        inspection, problems = self._once("Dataset", look, run.protocol.dataset.path, but_fold)
        return inspection or Inspection(findings=tuple(_errors(problems)))

    def _check_model(self, run: Blueprint) -> _ModelCheck:
        model = self._build_model(run)
        files = [f"{file.name} (sha256 {file.sha256[:12]}...)" for file in weights_files(model)]
        return _ModelCheck(tuple(damaged_weights(model)), ", ".join(files), ModelSize.of(model))

    def _examine(self, run: Blueprint) -> list[Finding]:
        """Check the task, evaluations, metrics and transforms of a run whose parts can all be built."""
        setup = run.protocol.setup.model_dump(exclude={"seed"})
        key = (*_model_key(run), *_data_key(run), run.protocol.to_json()["Metrics"], setup)
        findings, problems = self._once("Task", lambda: examine(run, self._build_model(run)), *key)
        return findings or _errors(problems)

    def _build_model(self, run: Blueprint) -> nn.Module:
        """Build the model of a run, or reuse the last model if it was built from the same sections."""
        key = digest(_model_key(run))
        if self._last_model is None or self._last_model[0] != key:
            self._last_model = None
            gc.collect()
            self._last_model = (key, try_out_model(run))
        return self._last_model[1]

    def _once(self, where: str, step: Callable[[], Any], *key: Any) -> tuple[Any, list[str]]:
        """Run a step once for equal keys; return its result (None if it fails) and its problems."""
        name = digest([where, *key])
        if name not in self._done:
            self._done[name] = _attempt(where, step)
        return self._done[name]


def _show(title: str, found: CheckResult, *, seconds: float) -> None:
    """Print facts, findings and their number; name only the first few places for each kind of finding."""
    if found.facts:
        show_rows(
            escaped(f"Check results for {title}"),
            [(name, escaped(text)) for name, text in found.facts.items()],
        )
    for kind in kinds(found.findings):
        places = [place for place in kind.places if place]
        times = f" ({len(kind.places)} times)" if len(kind.places) > 1 else ""
        first, *rest = map(escaped, kind.what.split("\n"))
        # Indent, so that no text from a file can be mistaken for a finding.
        lines = [f"{kind.severity}: {first}{times}", *(f"    {line}" for line in rest)]
        lines += [f"    {escaped(place)}" for place in places[:NAMED]]
        lines += [f"    and {len(kind.places) - NAMED} more"] * (len(kind.places) > NAMED)
        lines += [f"  {escaped(kind.remedy)}"] * bool(kind.remedy)
        show("\n".join(lines))
    count = {
        kind: sum(finding.severity == kind for finding in found.findings) for kind in ("error", "warning")
    }
    totals = ", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in count.items())
    show(escaped(f"{title}: {totals} ({duration(seconds)})"))


def _data_key(run: Blueprint) -> tuple[Any, ...]:
    """Return a key that is equal for runs with the same data and task."""
    content = run.protocol.to_json()
    sections = ("Dataset", "Transforms", "Task", "Evaluations", "Reporters")
    return (*map(content.get, sections), bool(run.protocol.setup.epochs))


def _model_key(run: Blueprint) -> tuple[Any, ...]:
    """Return a key that is equal for runs with the same model."""
    content, setup = run.protocol.to_json(), run.protocol.setup
    sections = ("Model", "Parameters", "Optimizer", "Scheduler")
    return (*map(content.get, sections), setup.precision, setup.epochs)


def _attempt(where: str, step: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Run a step; return its result (None if it fails) and its problems."""
    try:
        return step(), []
    except ProtocolError as error:
        return None, error.problems
    except Exception as error:  # classes of a protocol may raise anything
        return None, [f"{where}: {type(error).__name__}: {error}"]


def _errors(problems: Iterable[str], *, where: str = "") -> list[Finding]:
    return [Finding(severity="error", what=problem, where=where) for problem in problems]


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)
