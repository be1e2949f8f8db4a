"""`metrics.jsonl` has every event immediately, as strict JSON."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.api.reporter import Best, Evaluated, Fault, Iteration, Measured, RunEnd, RunStart
from ignite_trainer.reporters import JsonLines
from ignite_trainer.reporters.jsonl import ENTRY
from tests.ignite_trainer.reporters.events import evaluated

# A line of each kind, in the format that runs have written since the first version.
LINES = [
    '{"event": "iteration", "time": "2026-11-28T04:54:00.123+00:00", "epoch": 1, "iteration": 10, '
    '"split": "train", "loss": null, "learning_rates": [0.0001, 0.0], "samples_per_second": 64.0, '
    '"metrics": {"Cost": 3.0}}',
    '{"event": "evaluation", "time": "2026-11-28T04:54:00.123+00:00", "epoch": 1, "iteration": 10, '
    '"split": "train", "metrics": {"Val. Acc.": 0.5}, "seconds": 1.5}',
    '{"event": "measurement", "time": "2026-11-28T04:54:00.123+00:00", "epoch": 1, "name": "querying", '
    '"split": "test", "table": {"audio to text": {"R@1": 0.25, "mAP": null}}}',
    '{"event": "fault", "time": "2026-11-28T04:54:00.123+00:00", "epoch": 1, "iteration": 10, '
    '"what": "The loss is nan", "done": "the step is skipped", "samples": ["1-a.wav", "ü.wav"]}',
    '{"event": "end", "time": "2026-11-28T04:54:00.123+00:00", "epoch": 2, "split": "test", '
    '"metrics": {"Val. Acc.": 0.8}, "best": [{"label": "Val. Acc.", "value": 0.9, "epoch": 1, '
    '"checkpoint": "/runs/best.pt", "chosen_on": "test", "validation": null}, {"label": "Cost", '
    '"value": null, "epoch": 0, "checkpoint": null, "chosen_on": "validation", "validation": 2.0}], '
    '"last_checkpoint": "/runs/last.pt", "seconds": 60.0, "stopped_early": false, '
    '"faults": {"steps skipped": 2}}',
]
EVENTS = [
    Iteration(
        epoch=1,
        iteration=10,
        loss=math.nan,
        learning_rates=(1e-4, 0.0),
        samples_per_second=64.0,
        metrics={"Cost": 3.0},
    ),
    Evaluated(epoch=1, iteration=10, split="train", metrics={"Val. Acc.": 0.5}, seconds=1.5),
    Measured(epoch=1, name="querying", table={"audio to text": {"R@1": 0.25, "mAP": math.nan}}),
    Fault(
        epoch=1,
        iteration=10,
        what="The loss is nan",
        done="the step is skipped",
        samples=("1-a.wav", "ü.wav"),
    ),
    RunEnd(
        last_epoch=2,
        last={"Val. Acc.": 0.8},
        best=(
            Best(label="Val. Acc.", value=0.9, epoch=1, checkpoint=Path("/runs/best.pt")),
            Best.of("Cost", 0, held_out={"Cost": math.nan}, validation={"Cost": 2.0}),
        ),
        last_checkpoint=Path("/runs/last.pt"),
        seconds=60.0,
        faults={"steps skipped": 2},
    ),
]


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_every_event_is_on_disk_at_once_in_the_format_of_the_first_version(
    run: RunStart,
) -> None:
    reporter = JsonLines()
    reporter.on_start(run)
    path = run.folder / "metrics.jsonl"
    methods = ("on_iteration", "on_evaluation", "on_measurement", "on_fault", "on_end")
    for number, (method, event, expected) in enumerate(zip(methods, EVENTS, LINES, strict=True)):
        getattr(reporter, method)(event)
        line = path.read_text("utf-8").split("\n")[number]
        time = json.loads(line)["time"]
        assert (
            timedelta(0) <= datetime.now(timezone.utc) - datetime.fromisoformat(time) < timedelta(minutes=1)
        )
        assert line == expected.replace("2026-11-28T04:54:00.123+00:00", time)
    reporter.close()


@pytest.mark.parametrize(("line", "event"), [*zip(LINES, EVENTS, strict=True)])
def test_a_line_of_each_kind_is_read_as_its_event(line: str, event: Any) -> None:
    assert repr(ENTRY.validate_json(line)) == repr(event)  # NaN is not equal to itself; its repr is


def test_predictions_are_not_written(run: RunStart, guesses: Any) -> None:
    reporter = JsonLines()
    reporter.on_start(run)
    reporter.on_evaluation(evaluated(predictions=guesses([(0, 1)], classes=2)))
    reporter.close()
    (event,) = read(run.folder)
    assert set(event) == {"event", "time", "epoch", "iteration", "split", "metrics", "seconds"}


def test_a_second_run_in_the_folder_appends(run: RunStart) -> None:
    for epoch in (1, 2):
        reporter = JsonLines()
        reporter.on_start(run)
        reporter.on_evaluation(evaluated(epoch))
        reporter.close()
        reporter.close()
    assert [event["epoch"] for event in read(run.folder)] == [1, 2]
