"""Protocols and labels from other people are refused or shown as text, never run."""

from __future__ import annotations

import csv
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_research.protocols import toy

from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Evaluated, Line, Measured, RunEnd, RunStart, Window
from ignite_trainer.reporters import Console, LearningCurve, Report
from ignite_trainer.reporters.page import prediction_sections
from tests.page_elements import Elements
from tests.system.conftest import Command

LABELS = (
    "<script>alert(1)</script>",
    "![x](http://example.org/x.png)",
    "a | b",
    "two\nlines",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eturned",
    "$\\frac{1$ and $",
    "=HYPERLINK(A1)",
    "'=1",
    "+1",
    "@SUM(A1)",
    "_hidden",
)


# Protocols


def hostile(root: Path, path: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return the toy protocol with this class in every section that names a class."""
    spec = {"class": path, "args": args}
    return toy(
        root,
        Model=spec,
        Task=spec,
        Optimizer=spec,
        Scheduler=spec,
        Dataset=spec,
        Transforms=[spec],
        Metrics={"P": {"lines": [{**spec, "line_label": "a"}]}},
        Evaluations={"e": spec},
        Yardsticks={"y": spec},
        Reporters=[spec],
    )


SECTIONS = (
    *("Model", "Task", "Optimizer", "Scheduler", "Dataset", "Transforms[0]", "Metrics.P.lines[0]"),
    *("Evaluations.e", "Reporters[0]"),
)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("os.system", '"os" is not trusted'),
        ("subprocess.Popen", '"subprocess" is not trusted'),
        ("builtins.eval", '"builtins" is not trusted'),
        ("torch.os.system", 'which is defined in "posix"'),
        ("torch.load", "is torch.load"),
        ("torch.hub.load", "is torch.hub.load"),
        ("torch.utils.cpp_extension.load", "is torch.utils.cpp_extension.load"),
        ("torch.serialization.pickle.loads", 'which is defined in "_pickle"'),
        ("torch.nn.Module.__init__.__globals__", '"__init__" is a private name'),
        ("utils.fetching.unpack.unpack", "is utils.fetching.unpack.unpack"),
    ],
)
def test_a_hostile_class_is_refused_in_every_section(
    path: str, reason: str, tmp_path: Path, command: Command
) -> None:
    canary = tmp_path / "canary"
    protocol = hostile(tmp_path, path, {"command": f"touch {canary}", "args": f"touch {canary}"})
    refused, measured = command(protocol), command(protocol, "--benchmark", "1")
    assert (refused.status, measured.status) == (2, 2)
    assert [name for name in SECTIONS if f"{name}.class is {path}" in refused.err] == list(SECTIONS)
    assert refused.err.count(reason) >= len(SECTIONS)
    assert f"Yardsticks.y.class is {path}" in measured.err  # a run builds no yardsticks
    assert not canary.exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", ["torch.nn.Linear", "torch.optim.SGD", "ignite.metrics.Accuracy"])
def test_a_class_is_only_accepted_in_its_section(path: str, tmp_path: Path, command: Command) -> None:
    status, _, problems = command(hostile(tmp_path, path, {}))
    assert status == 2
    refused = [name for name in SECTIONS if re.search(rf"{re.escape(name)}\.class is {path}[,;] ", problems)]
    own = {"torch.nn.Linear": "Model", "torch.optim.SGD": "Optimizer"}.get(path, "Metrics.P.lines[0]")
    # A layer has __call__, so it is accepted as a transform.
    also = ["Transforms[0]"] if path == "torch.nn.Linear" else []
    assert refused == [name for name in SECTIONS if name not in (own, *also)]


@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_data_set_that_unpacks_any_archive_is_refused(
    more: list[str], tmp_path: Path, command: Command
) -> None:
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
        archive.addfile(tarfile.TarInfo("../../../canary"))
    (tmp_path / "root").mkdir()
    args = {
        "root": str(tmp_path / "root"),
        "url": (tmp_path / "set.tar.gz").as_uri(),
        "download": True,
        "training": {"key": "subset", "yes": "training", "no": "validation"},
    }
    raw = toy(tmp_path, Dataset={"class": "torchaudio.datasets.SPEECHCOMMANDS", "args": args})
    refused = command(raw, "--trust", "toy_research", *more)
    assert refused.status > 0
    printed = " ".join((refused.out + refused.err).split())
    assert "data sets in torchaudio download and unpack" in printed
    assert not (tmp_path / "canary").exists()
    assert not list((tmp_path / "root").iterdir())


def test_control_characters_of_a_protocol_do_not_reach_the_terminal(tmp_path: Path, command: Command) -> None:
    refused = command(toy(tmp_path, **{"\x1b[2J": 1}))
    assert refused.status == 2
    assert "\ufffd[2J is not a key of a protocol" in refused.err
    assert "\x1b" not in refused.err


# Labels


@pytest.fixture
def predictions() -> Predictions:
    """Make predictions for one sample of each label; every other one is correct."""
    count = len(LABELS)
    scores = np.full((count, count), 0.01, np.float32)
    scores[range(count), [i - i % 2 for i in range(count)]] = 0.5
    return Predictions(
        scores=scores,
        targets=np.eye(count, dtype=bool),
        class_names=LABELS,
        records=tuple({"clip": label, "fold": 1} for label in LABELS),
    )


@pytest.fixture
def run(tmp_path: Path) -> RunStart:
    lines = tuple(Line(key=label, label=label, split="test") for label in LABELS)
    window = Window(name=LABELS[0], x_label=LABELS[4], y_label=LABELS[6], width=9, height=9, lines=lines)
    return RunStart(
        folder=tmp_path,
        name=" ".join(LABELS),
        protocol={"Task": {"class": "a.B", "args": dict.fromkeys(LABELS, LABELS[0])}},
        environment={"revision": LABELS[0]},
        facts=dict(zip(LABELS, LABELS, strict=True)),
        windows=(window,),
        epochs=1,
        iterations_per_epoch=1,
    )


def report_run(reporter: Any, run: RunStart, predictions: Predictions) -> None:
    metrics = dict.fromkeys(LABELS, 0.5)
    reporter.on_start(run)
    reporter.on_evaluation(
        Evaluated(epoch=1, iteration=1, split="test", metrics=metrics, seconds=1.0, predictions=predictions)
    )
    table: dict[str, dict[str, float]] = {label: dict.fromkeys(LABELS, 0.5) for label in LABELS}
    reporter.on_measurement(Measured(epoch=1, name=LABELS[0], table=table))
    reporter.on_end(RunEnd(last_epoch=1, last=metrics, best=(), last_checkpoint=None, seconds=1.0))
    reporter.close()


def test_labels_in_a_report_are_text(run: RunStart, predictions: Predictions) -> None:
    report_run(Report(), run, predictions)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    page = Elements(text)
    ours = "html head meta title style body main nav ul li a h1 h2 h3 p div img details summary table thead "
    ours += "tbody tr th td pre code"
    assert {tag for tag, _ in page.found} == set(ours.split())
    assert len(page.of("img")) == 3
    assert page.words.count(LABELS[0]) > len(LABELS)


def test_labels_in_plots_are_text(run: RunStart, predictions: Predictions) -> None:
    prediction_sections(predictions, run.folder)  # warnings, such as of wrong mathematics, are errors
    reporter = LearningCurve()
    report_run(reporter, run, predictions)
    assert (run.folder / "curve.png").exists()
    axes = reporter.figure().axes[1]
    assert axes.get_title() == LABELS[0]
    assert axes.get_ylabel() == r"\$\frac{1\$ and \$"


def test_labels_at_a_terminal_are_text(
    run: RunStart, predictions: Predictions, capsys: pytest.CaptureFixture[str]
) -> None:
    report_run(Console(), run, predictions)
    output = capsys.readouterr().out
    assert "<script>alert(1)</script>" in output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", output)


def test_labels_in_a_spreadsheet_are_text(tmp_path: Path, predictions: Predictions) -> None:
    predictions.write_csv(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        cells = [
            cell for row in csv.DictReader(file) for cell in (row["clip"], row["target"], row["prediction"])
        ]
    assert "'=HYPERLINK(A1)" in cells
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    read = Predictions.read_csv(tmp_path / "p.csv")
    assert read.records == predictions.records
    assert np.array_equal(read.targets, predictions.targets)
    assert np.array_equal(read.scores, predictions.scores)
