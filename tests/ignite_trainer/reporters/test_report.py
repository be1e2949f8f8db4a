"""`report.md` says what a run reached, links what is there, and takes nothing that it is told as markup."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from toy_research.protocols import run_toy

from ignite_trainer.predictions import Predictions
from ignite_trainer.reporters import Report
from ignite_trainer.reporters.reporter import Best, Evaluated, Measured, Reporter, RunEnd, RunStart, Split

HOSTILE = "<img src=x onerror=alert(1)> | [a](b) `c` **d** # e"
HONEST = "The held-out split also chose the best epoch, so the figure of the last epoch is the honest one."


def predictions(names: tuple[str, str] = ("dog", "cat"), *, right: int = 3) -> Predictions:
    """Four samples of the first class, of which so many are right."""
    scores = np.array([[0.8, 0.2]] * right + [[0.4, 0.6]] * (4 - right), dtype=np.float32)
    targets = np.array([[True, False]] * 4)
    return Predictions(scores=scores, targets=targets, class_names=names, records=({"sample": 1},) * 4)


def evaluated(epoch: int, split: Split = "test", **more: Any) -> Evaluated:
    return Evaluated(epoch=epoch, iteration=0, split=split, metrics={"Val. Acc.": 0.5}, seconds=1.0, **more)


def the_end(**more: Any) -> RunEnd:
    made: dict[str, Any] = {
        "last_epoch": 2,
        "last": {"Val. Acc.": 0.75},
        "best": (Best(label="Val. Acc.", value=0.875, epoch=1, checkpoint=None),),
        "last_checkpoint": None,
        "seconds": 75.0,
    }
    return RunEnd(**(made | more))


def report(run: RunStart, *events: Evaluated | Measured, end: RunEnd | None = None) -> str:
    reporter: Reporter = Report()
    reporter.on_start(run)
    for event in events:
        if isinstance(event, Evaluated):
            reporter.on_evaluation(event)
        else:
            reporter.on_measurement(event)
    reporter.on_end(end or the_end())
    reporter.close()
    return (run.folder / "report.md").read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^#+ (.*)$", text)


def test_last_and_best_epoch_stand_side_by_side(run: RunStart) -> None:
    text = report(run)
    assert f"**Val. Acc. 0.7500** after the last epoch (2); best 0.8750 (epoch 1). {HONEST}\n" in text


def test_a_metric_without_checkpoints_has_no_best(run: RunStart) -> None:
    text = report(run, end=the_end(last={"Val. Acc.": 0.75, "Top-5": 0.9}))
    assert "**Top-5 0.9000** after the last epoch (2). " in text
    assert HONEST not in report(run, end=the_end(best=()))
    assert "No metric was computed." in report(run, end=the_end(last={}, best=()))


def test_without_training_nothing_is_said_of_epochs(run: RunStart) -> None:
    (run.folder / "curve.png").touch()
    text = report(dataclasses.replace(run, epochs=0), end=the_end(last_epoch=0, best=()))
    assert (
        "Nothing was trained: the model was evaluated as it was given. **Val. Acc. 0.7500** on the samples"
        in text
    )
    assert "best" not in text
    assert "curve" not in text


def test_facts_of_the_run_are_a_table(run: RunStart) -> None:
    text = report(dataclasses.replace(run, environment={"revision": "abc123"}))
    assert "| device | cpu |" in text
    assert "| rule \\[a-z\\] | &lt;b&gt;12 &amp; 3&lt;/b&gt; |" in text
    assert "| Revision | abc123 |\n| Duration | 1 min 15 s |" in text


def test_predictions_are_those_of_the_last_pass_over_the_held_out_split(run: RunStart) -> None:
    first, last = predictions(right=1), predictions(right=3)
    text = report(run, evaluated(1, predictions=first), evaluated(2, predictions=last), evaluated(2, "train"))
    assert "3 of 4 samples are right" in text
    assert (run.folder / "confusion.png").exists()


def test_a_task_that_scores_no_classes_has_no_sections_of_them(run: RunStart) -> None:
    text = report(run, evaluated(1, predictions=predictions()), evaluated(2))
    assert headings(text) == ["Experiment-CV1 &lt;first&gt;", "Run", "Protocol", "Files"]


def test_measurements_are_tables_of_their_last_pass(run: RunStart) -> None:
    old = Measured(epoch=1, name="querying", table={"a to b": {"R@1": 0.1}})
    new = Measured(
        epoch=2, name="querying", table={"a to b": {"R@1": 0.25, "mAP": 0.5}, "b|a": {"mAP": 1e-5}}
    )
    text = report(run, old, new)
    assert "## querying\n\nHeld-out split, epoch 2.\n" in text
    assert "|  | R&#64;1 | mAP |\n| :-- | --: | --: |\n" in text
    assert "| a to b | 0.2500 | 0.5000 |\n| b\\|a |  | 1.000e-05 |\n" in text
    assert "0.1000" not in text


def test_the_task_is_shown_as_the_protocol_has_it(run: RunStart) -> None:
    task = {"class": "a.Task", "args": {"templates": ["a {}"], "names": {"cow": "Kuh"}}}
    text = report(dataclasses.replace(run, protocol={"Task": task}))
    assert '## Task\n\n```json\n{\n  "class": "a.Task",' in text
    assert '"cow": "Kuh"' in text


def test_only_files_that_are_there_are_linked(run: RunStart) -> None:
    checkpoints = run.folder / "checkpoints"
    checkpoints.mkdir()
    for path in (run.folder / "metrics.jsonl", checkpoints / "best.pt"):
        path.touch()
    best = Best(label="Val. Acc.", value=0.5, epoch=1, checkpoint=checkpoints / "best.pt")
    gone = dataclasses.replace(best, label="Gone", checkpoint=checkpoints / "gone.pt")
    text = report(run, end=the_end(best=(best, gone), last_checkpoint=checkpoints / "last.pt"))
    assert re.findall(r"\]\(([^)]*)\)", text) == ["metrics.jsonl", "checkpoints/best.pt"]
    assert "weights of the best epoch by Val. Acc." in text


def test_nothing_that_is_told_acts_as_markup(run: RunStart) -> None:
    hostile = dataclasses.replace(
        run,
        name=HOSTILE,
        facts={HOSTILE: HOSTILE},
        protocol={"Task": {"class": "a.B", "args": {"template": f"```\n{HOSTILE}"}}},
    )
    end = the_end(last={HOSTILE: 0.5}, best=(Best(label=HOSTILE, value=0.5, epoch=1, checkpoint=None),))
    measured = Measured(epoch=2, name=HOSTILE, table={HOSTILE: {HOSTILE: 0.5}})
    shown = predictions((HOSTILE, f"\n# {HOSTILE}"))
    rendered = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(report(hostile, evaluated(2, predictions=shown), measured, end=end))
    )
    ours = "details summary h1 h2 p strong table thead tbody tr th td img ul li a pre code".split()  # noqa: SIM905
    assert set(re.findall(r"<([a-z0-9]+)", rendered)) <= set(ours)
    assert rendered.count("<strong>") == 1
    assert rendered.count("<h1>") == 1
    assert rendered.count("<code") == 2  # the task's and the protocol's
    assert set(re.findall(r'<img src="([^"]*)"', rendered)) == {
        "classes.png",
        "confusion.png",
        "calibration.png",
    }


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_run_leaves_a_report_whose_links_all_lead_somewhere(tmp_path: Path, epochs: int) -> None:
    reporters = [
        {"class": f"ignite_trainer.reporters.{name}"} for name in ("JsonLines", "LearningCurve", "Report")
    ]
    folder = run_toy(tmp_path, Setup__epochs=epochs, Reporters=reporters).folder
    text = (folder / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert all((folder / link).exists() for link in links)
    always = {"classes.png", "confusion.png", "predictions.csv", "metrics.jsonl", "protocol.json"}
    trained = {"curve.png", "checkpoints/last_epoch-2.pt"}
    assert always <= set(links)
    assert (trained <= set(links)) == bool(epochs)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == text.count("![") == page.count('src="data:image/png;base64,')
    assert "&quot;batch_train&quot;: 8" in page  # the whole protocol
    assert not list(folder.glob(".*"))


def test_naming_the_reporters_loads_neither_matplotlib_nor_scikit_learn() -> None:
    code = "import sys, ignite_trainer.reporters as _; print({'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
