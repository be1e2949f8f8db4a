"""`report.html` shows the results of a run and links existing files."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import run_toy

from ignite_trainer.api.reporter import Best, Evaluated, Measured, Reporter, RunEnd, RunStart
from ignite_trainer.reporters import Report
from ignite_trainer.support.formatting import CHOSEN_ON
from tests.ignite_trainer.reporters.events import evaluated
from tests.page_elements import Elements


def the_end(**more: Any) -> RunEnd:
    made: dict[str, Any] = {
        "last_epoch": 2,
        "last": {"Val. Acc.": 0.75},
        "best": (Best(label="Val. Acc.", value=0.875, epoch=1, checkpoint=None),),
        "last_checkpoint": None,
        "seconds": 75.0,
    }
    return RunEnd(**(made | more))


def report(run: RunStart, *events: Evaluated | Measured, end: RunEnd | None = None) -> Elements:
    reporter: Reporter = Report()
    reporter.on_start(run)
    for event in events:
        if isinstance(event, Evaluated):
            reporter.on_evaluation(event)
        else:
            reporter.on_measurement(event)
    reporter.on_end(end or the_end())
    reporter.close()
    return Elements(run.folder / "report.html")


def test_last_and_best_epoch_are_shown_side_by_side(run: RunStart) -> None:
    page = report(run)
    assert page.texts["th"][:3] == ["metric", "last epoch (2)", "chosen on held-out split"]
    assert page.texts["td"][:3] == ["Val. Acc.", "0.7500", "0.8750 (epoch 1)"]
    assert page.texts["p"][0] == CHOSEN_ON["test"]


def test_a_metric_without_checkpoints_has_no_best(run: RunStart) -> None:
    page = report(run, end=the_end(last={"Val. Acc.": 0.75, "Top-5": 0.9}))
    assert page.texts["td"][3:6] == ["Top-5", "0.9000", ""]
    assert report(run, end=the_end(best=())).texts["p"] == []
    assert "There are no metrics." in report(run, end=the_end(last={}, best=())).words


def test_the_report_of_an_evaluation_mentions_no_epochs(run: RunStart) -> None:
    (run.folder / "curve.png").touch()
    page = report(dataclasses.replace(run, epochs=0), end=the_end(last_epoch=0, best=()))
    assert "Evaluation only: nothing was trained." in page.words
    assert page.texts["td"][:2] == ["Val. Acc.", "0.7500"]
    assert "best" not in page.words
    assert "curve" not in page.words


def test_facts_of_the_run_are_a_table(run: RunStart) -> None:
    page = report(dataclasses.replace(run, environment={"revision": "abc123"}))
    cells = ["device", "cpu", "rule [a-z]", "<b>12 & 3</b>", "output", str(run.folder)]
    assert page.texts["td"][3:] == [*cells, "Revision", "abc123", "Duration", "1 min 15 s"]


def test_predictions_come_from_the_last_pass_over_the_held_out_split(run: RunStart, guesses: Any) -> None:
    first, last = (guesses([(0, 0)] * right + [(0, 1)] * (4 - right), classes=2) for right in (1, 3))
    page = report(run, evaluated(1, predictions=first), evaluated(2, predictions=last), evaluated(2, "train"))
    assert "(3 of 4 samples; " in page.words
    assert (run.folder / "confusion.png").exists()


def test_a_task_that_scores_no_classes_has_no_sections_about_classes(run: RunStart, guesses: Any) -> None:
    page = report(run, evaluated(1, predictions=guesses([(0, 0)], classes=2)), evaluated(2))
    assert page.texts["h2"] == ["Run", "Protocol", "Files"]


def test_measurements_of_the_last_pass_are_shown_as_tables(run: RunStart) -> None:
    old = Measured(epoch=1, name="querying", table={"a to b": {"R@1": 0.1}})
    table = {"a to b": {"R@1": 0.25, "mAP": 0.5}, "b|a": {"mAP": 1e-5}}
    page = report(run, old, Measured(epoch=2, name="querying", table=table))
    assert page.texts["h2"][1] == "querying"
    assert page.texts["p"][1] == "Held-out split, epoch 2."
    assert page.texts["th"][3:] == ["", "R@1", "mAP"]
    assert page.texts["td"][-6:] == ["a to b", "0.2500", "0.5000", "b|a", "", "1.000e-05"]


def test_the_task_is_shown_as_in_the_protocol(run: RunStart) -> None:
    task = {"class": "a.Task", "args": {"templates": ["a {}"], "names": {"cow": "Kuh"}}}
    page = report(dataclasses.replace(run, protocol={"Task": task}))
    assert [json.loads(text) for text in page.texts["code"]] == [task, {"Task": task}]


def test_only_existing_files_are_linked(run: RunStart) -> None:
    checkpoints = run.folder / "checkpoints"
    checkpoints.mkdir()
    for path in (run.folder / "metrics.jsonl", checkpoints / "best.pt"):
        path.touch()
    best = Best(label="Val. Acc.", value=0.5, epoch=1, checkpoint=checkpoints / "best.pt")
    gone = dataclasses.replace(best, label="Gone", checkpoint=checkpoints / "gone.pt")
    page = report(run, end=the_end(best=(best, gone), last_checkpoint=checkpoints / "last.pt"))
    assert page.texts["a"][3:] == ["metrics.jsonl", "checkpoints/best.pt"]
    assert "weights of the best epoch by Val. Acc." in page.words


@pytest.mark.parametrize("epochs", [0, 2])
def test_every_link_in_the_report_of_a_run_leads_to_a_file(tmp_path: Path, epochs: int) -> None:
    reporters = [
        {"class": f"ignite_trainer.reporters.{name}"} for name in ("JsonLines", "LearningCurve", "Report")
    ]
    folder = run_toy(tmp_path, Setup__epochs=epochs, Reporters=reporters).folder
    page = Elements(folder / "report.html")
    links = {str(link["href"]) for link in page.of("a")}
    files = {link for link in links if not link.startswith("#")}
    assert all((folder / file).exists() for file in files)
    assert {"predictions.csv", "metrics.jsonl", "protocol.json"} <= files
    assert ("checkpoints/last_epoch-2.pt" in files) == bool(epochs)
    names = [*(["Loss and metrics by epoch"] if epochs else []), "Accuracy of each class"]
    assert [image["alt"] for image in page.of("img")][: len(names)] == names
    assert json.loads(page.texts["code"][-1])["Setup"]["batch_train"] == 8  # the complete protocol
    assert not list(folder.glob(".*"))


def test_naming_the_reporters_loads_neither_matplotlib_nor_scikit_learn() -> None:
    code = "import sys, ignite_trainer.reporters as _; print({'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
