"""`metrics.jsonl` holds every event, at once, as JSON that any parser takes."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ignite_trainer.reporters import JsonLines
from ignite_trainer.reporters.reporter import Best, Evaluated, Iteration, RunEnd, RunStart


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_every_event_is_on_disk_as_soon_as_it_is_told(run: RunStart) -> None:
    reporter = JsonLines()
    reporter.on_start(run)
    assert read(run.folder) == []
    reporter.on_evaluation(
        Evaluated(epoch=0, iteration=0, split="test", metrics={"Val. Acc.": 0.02}, seconds=1.5)
    )
    (evaluation,) = read(run.folder)
    time = datetime.fromisoformat(evaluation.pop("time"))
    assert timedelta(0) <= datetime.now(timezone.utc) - time < timedelta(minutes=1)
    assert evaluation == {
        "event": "evaluation",
        "epoch": 0,
        "iteration": 0,
        "split": "test",
        "metrics": {"Val. Acc.": 0.02},
        "seconds": 1.5,
    }
    reporter.on_iteration(
        Iteration(
            epoch=1,
            iteration=10,
            loss=2.5,
            learning_rates=(1e-4, 0.0),
            samples_per_second=64.0,
            metrics={"Cost": 3.0},
        )
    )
    iteration = read(run.folder)[1]
    del iteration["time"]
    assert iteration == {
        "event": "iteration",
        "epoch": 1,
        "iteration": 10,
        "split": "train",
        "loss": 2.5,
        "learning_rates": [1e-4, 0.0],
        "samples_per_second": 64.0,
        "metrics": {"Cost": 3.0},
    }
    best = Best(label="Val. Acc.", value=0.9, epoch=1, checkpoint=run.folder / "best.pt")
    reporter.on_end(
        RunEnd(last_epoch=2, last={"Val. Acc.": 0.8}, best=(best,), last_checkpoint=None, seconds=60.0)
    )
    end = read(run.folder)[2]
    del end["time"]
    assert end == {
        "event": "end",
        "epoch": 2,
        "split": "test",
        "metrics": {"Val. Acc.": 0.8},
        "best": [{"label": "Val. Acc.", "value": 0.9, "epoch": 1, "checkpoint": str(run.folder / "best.pt")}],
        "last_checkpoint": None,
        "seconds": 60.0,
        "faults": {},
    }
    reporter.close()


def test_values_that_are_not_finite_are_null(run: RunStart) -> None:
    reporter = JsonLines()
    reporter.on_start(run)
    reporter.on_iteration(
        Iteration(
            epoch=1,
            iteration=1,
            loss=math.nan,
            learning_rates=(1e-4,),
            samples_per_second=math.inf,
            metrics={"Cost": -math.inf},
        )
    )
    reporter.close()
    (event,) = read(run.folder)
    assert (event["loss"], event["samples_per_second"], event["metrics"]) == (None, None, {"Cost": None})


def test_a_second_run_in_the_folder_appends(run: RunStart) -> None:
    for epoch in (1, 2):
        reporter = JsonLines()
        reporter.on_start(run)
        reporter.on_evaluation(Evaluated(epoch=epoch, iteration=1, split="train", metrics={}, seconds=1.0))
        reporter.close()
        reporter.close()
    assert [event["epoch"] for event in read(run.folder)] == [1, 2]
