"""Reporters: one that remembers, one that fails."""

from __future__ import annotations

from typing import Any, ClassVar

from ignite_trainer.api.reporter import Evaluated, Fault, Iteration, Measured, Reporter, RunEnd, RunStart


class Notebook(Reporter):
    """Remembers what it is told, for a test to look up; `Notebook.last` is the newest."""

    last: ClassVar[Notebook]

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        Notebook.last = self

    def of(self, kind: str) -> list[Any]:
        return [event for name, event in self.events if name == kind]

    def on_start(self, run: RunStart) -> None:
        self.events.append(("start", run))

    def on_iteration(self, step: Iteration) -> None:
        self.events.append(("iteration", step))

    def on_evaluation(self, result: Evaluated) -> None:
        self.events.append(("evaluation", result))

    def on_measurement(self, result: Measured) -> None:
        self.events.append(("measurement", result))

    def on_fault(self, fault: Fault) -> None:
        self.events.append(("fault", fault))

    def on_end(self, end: RunEnd) -> None:
        self.events.append(("end", end))

    def close(self) -> None:
        self.events.append(("close", None))


class Broken(Reporter):
    """Fails whenever it is told something."""

    def on_start(self, run: RunStart) -> None:
        raise OSError(f"no space left in {run.folder.parent.name}")

    def on_iteration(self, step: Iteration) -> None:
        raise AssertionError(f"told of step {step.iteration} after it failed")
