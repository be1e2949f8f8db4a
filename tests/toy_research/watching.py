"""Reporters that remember, fail, or watch their process."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

from ignite_trainer.api.reporter import Evaluated, Fault, Iteration, Measured, Reporter, RunEnd, RunStart


class Notebook(Reporter):
    """Remembers its events for a test; `Notebook.last` is the newest notebook."""

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
    """Fails at every event."""

    def on_start(self, run: RunStart) -> None:
        raise OSError(f"no space left in {run.folder.parent.name}")

    def on_iteration(self, step: Iteration) -> None:
        raise AssertionError(f"told of step {step.iteration} after it failed")


LOOKED_AT = (10, 50, 100, 200, 300)
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(Reporter):
    """Prints resident memory in MiB, open files and threads after some epochs; `seen` collects them."""

    seen: ClassVar[dict[int, tuple[float, int, int]]] = {}

    def on_evaluation(self, result: Evaluated) -> None:
        if result.split != "test" or result.epoch not in LOOKED_AT:
            return
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MIB
        files = len(list(Path("/proc/self/fd").iterdir()))
        Watch.seen[result.epoch] = resident, files, threading.active_count()
        print(f"| {result.epoch} | {resident:.0f} | {files} | {threading.active_count()} |", flush=True)
