"""`metrics.jsonl`: the events of a run, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field, TypeAdapter

from ignite_trainer.api import file_names
from ignite_trainer.api.reporter import (
    Evaluated,
    Event,
    Fault,
    Iteration,
    Measured,
    Reporter,
    RunEnd,
    RunStart,
)
from ignite_trainer.support.files import append

Entry = Iteration | Evaluated | Measured | Fault | RunEnd
ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="event")])
"""Parses a line of the file into an event."""


class JsonLines(Reporter):
    """Appends to `metrics.jsonl` in the run's folder; every line is on disk before the run continues.

    ```text
    {"event": "iteration", "time": ..., "epoch": 1, "iteration": 10, "split": "train", "loss": ...,
     "learning_rates": [...], "samples_per_second": ..., "metrics": {...}}
    {"event": "evaluation", "time": ..., "epoch": 1, "iteration": 25, "split": "test",
     "metrics": {...}, "seconds": ...}
    {"event": "measurement", "time": ..., "epoch": 1, "name": ..., "split": "test",
     "table": {row: {column: ...}}}
    {"event": "fault", "time": ..., "epoch": 1, "iteration": 12, "what": ..., "done": ..., "samples": [...]}
    {"event": "end", "time": ..., "epoch": 50, "split": "test", "metrics": {...},
     "best": [{"label": ..., "value": ..., "epoch": ..., "checkpoint": ..., "chosen_on": "test" or
     "validation", "validation": ...}], "last_checkpoint": ..., "seconds": ..., "stopped_early": false,
     "faults": {kind: count}}
    ```

    `time` is ISO 8601 in UTC. Non-finite values are written as `null`. A resumed run first removes the lines
    after its saved state, then appends.
    """

    _path: Path
    _file: BinaryIO | None = None

    def on_start(self, run: RunStart) -> None:
        """Open the file, so that a folder that is not writable fails before the first step."""
        self._path = run.folder / file_names.LOG
        self._file = self._path.open("ab", buffering=0)

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:  # noqa: ARG002
        """Open the file, which already contains the history."""
        self.on_start(run)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Entry) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        content = ENTRY.dump_python(event, mode="json", by_alias=True)
        content = {"event": event.event, "time": time, **content}
        line = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
        assert self._file is not None, "on_start comes first"
        append(self._file, line.encode(), path=self._path)

    # The base class names the parameter after each event.
    on_iteration = on_evaluation = on_measurement = on_fault = on_end = _write  # type: ignore[assignment]
