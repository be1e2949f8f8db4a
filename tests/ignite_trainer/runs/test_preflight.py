"""Problems found before the first step: a run does not start, and `--check` reports the same."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_research.learning import Matching
from toy_research.protocols import Command, run_toy, sweep_toy

from ignite_trainer.api.findings import Finding, format_findings
from ignite_trainer.api.task import Task
from ignite_trainer.support.errors import ProtocolError

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(command: Command) -> Check:
    """Return a function that checks a toy protocol with changes, and returns status and report."""

    def check(**changes: Any) -> tuple[int, str]:
        done = command("-c", command.write(**changes), "--check")
        return done.status, " ".join(done.out.split())

    return check


FIT = {"class": "toy_research.augment.Fit", "args": {"length": 16}}
REVERSE = {"class": "toy_research.augment.reverse_name"}
HISS = {"class": "toy_research.augment.Hiss"}


def line(path: str, **args: Any) -> dict[str, Any]:
    label = {"line_label": "Val. Acc.", "class": "ignite.metrics.Accuracy", "is_checkpoint": True}
    return {"Performance": {"lines": [label, {"line_label": "Other", "class": path, "args": args}]}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"Metrics": line("ignite.metrics.TopKCategoricalAccuracy", k=5)},
            'Metrics.Performance.lines[1]: the metric "Other" with {"k": 5}: selected index k out of range; '
            "the task scores 3 classes.",
        ),
        ({"Metrics": line("ignite.metrics.Recall")}, 'The metric "Other" returns a Tensor of shape [3]'),
        (
            {"Task": {"class": "toy_research.lonely.Finicky", "args": {"errors": 2}}},
            "A tone is flat. (2 times)",
        ),
        (
            {"Transforms": [FIT, {**HISS, "field": "name"}]},
            "Transforms[1]: it transforms arrays, but its field has values of type str.",
        ),
        (
            {"Transforms": [FIT, {**HISS, "field": "weight"}, {"class": "toy_research.augment.scale"}]},
            "Transforms[1]: it transforms arrays, but its field has values of type number.",
        ),
        (
            {"Transforms": [FIT, {**REVERSE, "field": "target", "train": False}]},
            "Transforms[1]: TypeError: 'int' object is not subscriptable (",
        ),
    ],
)
def test_a_run_that_would_fail_later_does_not_start(
    check: Check, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    status, report = check(**changes)
    assert (status, expected in report) == (1, True)
    with pytest.raises(ProtocolError) as error:
        run_toy(tmp_path / "results", **changes)
    assert expected.removesuffix(" (2 times)").rstrip(".") in str(error.value)
    assert not (tmp_path / "results" / "Toy").exists()


def test_a_metric_may_take_either_form_of_targets_if_the_task_leaves_it_open(check: Check) -> None:
    assert check(Metrics=line("ignite.metrics.AveragePrecision"))[0] == 0
    assert check(Metrics=line("ignite.metrics.TopKCategoricalAccuracy", k=3))[0] == 0


def test_a_tasks_warnings_do_not_stop_a_run(
    check: Check, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = {"class": "toy_research.lonely.Finicky", "args": {"warnings": 7}}
    status, report = check(Task=task)
    assert (status, "warning: A tone is sharp. (7 times)" in report) == (0, True)
    with caplog.at_level(logging.WARNING):
        run_toy(tmp_path / "results", Task=task)
    assert "A tone is sharp (7 times): tone 0; tone 1; tone 2; tone 3; tone 4, and 2 more." in caplog.messages


def test_each_finding_is_written_in_one_line() -> None:
    flat = Finding(severity="error", what="A tone is flat.", where="tones.csv, line 3", remedy="Tune it.")
    alone = Finding(severity="error", what="Nothing sounds.")
    assert format_findings([flat, alone]) == [
        "A tone is flat: tones.csv, line 3. Tune it.",
        "Nothing sounds.",
    ]


def test_a_logger_that_is_not_installed_is_refused_before_a_run(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "ignite_trainer.reporters.ignite_loggers.find_spec",
        lambda name: None if name == "wandb" else find(name),
    )
    reporters = [
        {"class": "ignite_trainer.reporters.JsonLines"},
        {"class": "ignite.handlers.WandBLogger", "args": {"project": "tones"}},
    ]
    needed = (
        "Reporters[1].class is WandBLogger, but wandb is not installed: run `pip install wandb`, or remove "
        "the entry."
    )
    status, report = check(Reporters=reporters)
    assert (status, report.count(needed)) == (1, 1)
    for start in (
        lambda: run_toy(tmp_path / "results", Reporters=reporters),
        lambda: sweep_toy(tmp_path / "results", {"Setup.seed": [1, 2]}, Reporters=reporters),
    ):
        with pytest.raises(ProtocolError) as error:
            start()
        assert error.value.problems == [needed]
    assert not (tmp_path / "results").exists()


def test_a_check_lists_omitted_checks_without_preparing_the_data_set(check: Check, tmp_path: Path) -> None:
    (tmp_path / "signalled").touch()  # so that no signal is sent
    args = {"fold": 2, "folder": str(tmp_path / "prepared"), "signal": "SIGTERM"}
    data = {"class": "toy_research.failing.Prepared", "args": args}
    status, report = check(Dataset=data)
    assert status == 0
    assert "warning: toy_research.failing.Prepared was not prepared" in report
    assert "Not checked: samples, the task, evaluations, metrics, transforms." in report
    assert not (tmp_path / "prepared").exists()
    assert "fewer than one batch" in check(Dataset=data, Setup__batch_train=1000)[1]


def test_without_training_the_training_split_is_not_checked(check: Check, tmp_path: Path) -> None:
    task = {"class": "toy_research.lonely.ForTraining"}
    assert "error: There is a training split." in check(Task=task)[1]
    assert "error: It is scored." in check(Task=task)[1]
    assert "error: It is scored." not in check(Task=task, Setup__skip_train_evaluation=True)[1]
    assert check(Task=task, Setup__epochs=0)[0] == 0
    run_toy(tmp_path / "results", Task=task, Setup__epochs=0)


@pytest.mark.parametrize(("classes", "outputs"), [(1000, {(1000, 1000)}), (1001, set())])
def test_metrics_are_not_tried_with_very_many_classes(classes: int, outputs: set[tuple[int, int]]) -> None:
    task: Task = Matching()
    task.class_names = tuple(map(str, range(classes)))
    assert {output.y_pred.shape for output in task.example_outputs()} == outputs
