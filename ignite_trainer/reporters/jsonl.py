"""`metrics.jsonl`: every event of a run as one line of JSON, for whatever reads it later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from ignite_trainer import file_names
from ignite_trainer.reporters.reporter import (
    Evaluated,
    Event,
    Fault,
    Iteration,
    Measured,
    Reporter,
    RunEnd,
    RunStart,
)
from ignite_trainer.writing import append


class JsonLines(Reporter):
    """Appends to `metrics.jsonl` in the run's folder; every line is on disk before the run goes on.

    ```text
    {"event": "iteration", "time": ..., "epoch": 1, "iteration": 10, "split": "train", "loss": ...,
     "learning_rates": [...], "samples_per_second": ..., "metrics": {...}}
    {"event": "evaluation", "time": ..., "epoch": 1, "iteration": 25, "split": "test",
     "metrics": {...}, "seconds": ...}
    {"event": "measurement", "time": ..., "epoch": 1, "name": ..., "split": "test",
     "table": {row: {column: ...}}}
    {"event": "fault", "time": ..., "epoch": 1, "iteration": 12, "what": ..., "done": ..., "samples": [...]}
    {"event": "end", "time": ..., "epoch": 50, "split": "test", "metrics": {...},
     "best": [{"label": ..., "value": ..., "epoch": ..., "checkpoint": ...}],
     "last_checkpoint": ..., "seconds": ..., "faults": {what: count}}
    ```

    `time` is ISO 8601 in UTC. A value that is not finite is `null`, the one such value JSON has. A resumed
    run appends to the file it finds, from which what came after its state was cut off.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._path = Path()

    def on_start(self, run: RunStart) -> None:
        """Open the file, so that a folder which cannot be written is found before the first step."""
        self._path = run.folder / file_names.LOG
        self._file = self._path.open("ab", buffering=0)

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:  # noqa: ARG002
        """Open the file, which ends with the history."""
        self.on_start(run)

    def on_iteration(self, step: Iteration) -> None:
        """Write the progress of training."""
        self._write(
            "iteration",
            epoch=step.epoch,
            iteration=step.iteration,
            split="train",
            loss=_number(step.loss),
            learning_rates=[_number(rate) for rate in step.learning_rates],
            samples_per_second=_number(step.samples_per_second),
            metrics=_numbers(step.metrics),
        )

    def on_evaluation(self, result: Evaluated) -> None:
        """Write what a split scored."""
        self._write(
            "evaluation",
            epoch=result.epoch,
            iteration=result.iteration,
            split=result.split,
            metrics=_numbers(result.metrics),
            seconds=_number(result.seconds),
        )

    def on_measurement(self, result: Measured) -> None:
        """Write what an evaluation found."""
        table = {row: _numbers(values) for row, values in result.table.items()}
        self._write("measurement", epoch=result.epoch, name=result.name, split="test", table=table)

    def on_fault(self, fault: Fault) -> None:
        """Write what went wrong, with the names of all its samples."""
        self._write(
            "fault",
            epoch=fault.epoch,
            iteration=fault.iteration,
            what=fault.what,
            done=fault.done,
            samples=list(fault.samples),
        )

    def on_end(self, end: RunEnd) -> None:
        """Write what the run leaves."""
        self._write(
            "end",
            epoch=end.last_epoch,
            split="test",
            metrics=_numbers(end.last),
            best=[
                {
                    "label": best.label,
                    "value": _number(best.value),
                    "epoch": best.epoch,
                    "checkpoint": _path(best.checkpoint),
                }
                for best in end.best
            ],
            last_checkpoint=_path(end.last_checkpoint),
            seconds=_number(end.seconds),
            faults=dict(end.faults),
        )

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: str, **values: Any) -> None:
        assert self._file is not None, "on_start comes first"
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": time, **values}, ensure_ascii=False, allow_nan=False)
        append(self._file, f"{line}\n".encode(), path=self._path)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {label: _number(value) for label, value in values.items()}


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
