"""Complete sweeps of the toy package: their results, and how they resume after a stop."""

from __future__ import annotations

import csv
import gc
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from toy_research.network import TwoTowers
from toy_research.protocols import Command, plan_toy, sweep_toy
from toy_research.signals import Tones

from ignite_trainer.commands.sweeps.sweep_summary import Summary
from ignite_trainer.support.errors import ProtocolError

FOLD = "Dataset.args.fold"
SEED = "Setup.seed"
FOLDS = {FOLD: [1, 2, 3]}
# The folds differ in size: 11, 10 and 10 samples.
UNEQUAL = {"Dataset__args": {"samples": 31}}


@pytest.fixture(autouse=True)
def _collect_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip garbage collection, which takes longer than a toy run."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def swept(root: Path, sweep: dict[str, list[Any]], **changes: Any) -> tuple[Summary, Path]:
    """Run a sweep of the toy protocol; return the summary and the folder of the sweep."""
    return sweep_toy(root, sweep, **changes), only(root / "Toy")


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the modification time of every file below a folder, by path."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def accuracies(run: Path) -> list[float]:
    """Read the held-out accuracy of each epoch from the run's log."""
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    kind = {"event": "evaluation", "split": "test"}
    return [event["metrics"]["Val. Acc."] for event in events if kind.items() <= event.items()]


def seeds(folder: Path) -> list[int]:
    return [json.loads(path.read_text())["seed"] for path in sorted(folder.glob("*/result.json"))]


def test_a_sweep_has_a_folder_with_all_its_runs_and_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, folder = swept(tmp_path, FOLDS, Setup__suffix="CV 1", **UNEQUAL)
    assert re.fullmatch(r"sweep_[0-9a-f]{12}", folder.name), "a suffix names one fold"
    names = "sweep.json summary.json sweep.md report.html predictions.csv classes.png confusion.png"
    found = {path.name for path in folder.iterdir()} - {"sweep.lock"}
    assert found == {"fold-1", "fold-2", "fold-3", *names.split()}
    assert 'alt="Confusion matrix' in (folder / "report.html").read_text()
    assert summary.missing == []
    runs = [accuracies(folder / f"fold-{fold}") for fold in (1, 2, 3)]
    last, best = [run[-1] for run in runs], [max(run[1:]) for run in runs]
    (group,) = json.loads((folder / "summary.json").read_text())["groups"]
    for name, values in (("last", last), ("best", best)):
        mean = sum(values) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        found = group["metrics"]["Val. Acc."][name]
        assert found == {"mean": pytest.approx(mean), "deviation": pytest.approx(deviation), "n": 3}
        assert f"{mean:.4f} ± {deviation:.4f}" in (folder / "sweep.md").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Run 1 of 3: fold-1"
    assert lines[-1] == f"Report: {(folder / 'report.html').as_uri()}"
    assert any(line.split()[:4] == ["fold-2", "2", f"{last[1]:.4f}", "(2)"] for line in lines)
    assert any("the last epoch is unbiased" in line for line in lines)


def test_a_sweep_that_does_not_vary_the_fold_has_the_suffix_in_its_name(tmp_path: Path) -> None:
    plan = plan_toy(tmp_path, {SEED: [1]}, Setup__suffix="CV 1")
    assert re.fullmatch(r"sweep_CV-1_[0-9a-f]{12}", plan.folder.name)


def test_the_saved_protocol_of_a_run_repeats_that_run_alone(tmp_path: Path) -> None:
    sweep_toy(tmp_path, {FOLD: [2]})
    saved = json.loads((only(tmp_path / "Toy") / "fold-2/protocol.json").read_text())
    assert saved["Sweep"] == {}
    assert saved["Dataset"]["args"] == {"fold": 2}
    assert saved["Setup"]["seed"] == 7


def test_predictions_of_all_folds_are_pooled_over_samples(tmp_path: Path) -> None:
    summary, folder = swept(tmp_path, FOLDS, **UNEQUAL)
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 31
    right = sum(row["target"] == row["prediction"] for row in rows)
    last = [accuracies(folder / f"fold-{fold}")[-1] for fold in (1, 2, 3)]
    assert right == round(11 * last[0] + 10 * last[1] + 10 * last[2])
    assert summary.pooled is not None
    assert summary.pooled.accuracy == pytest.approx(right / 31)
    said = (folder / "sweep.md").read_text()
    assert f"31 samples; pooled accuracy {right / 31:.4f}." in said
    assert "the two differ if folds differ in size" in said


@pytest.mark.parametrize(
    ("sweep", "is_pooled"),
    [
        ({FOLD: [1, 2], SEED: [5]}, True),
        ({SEED: [1, 2]}, False),
        ({FOLD: [1, 2], SEED: [1, 2]}, False),
        ({FOLD: [1]}, False),
    ],
)
def test_only_folds_of_one_seed_are_pooled(
    tmp_path: Path, sweep: dict[str, list[Any]], is_pooled: bool
) -> None:
    summary, folder = swept(tmp_path, sweep, Setup__epochs=0)
    assert (summary.pooled is not None, (folder / "predictions.csv").exists()) == (is_pooled, is_pooled)
    said = "the predictions on the 2 folds held out (of 3) after"  # not on all folds
    assert (said in (folder / "sweep.md").read_text()) == is_pooled


def test_a_run_that_held_nothing_out_is_not_pooled_with_other_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    construct = Tones.__init__

    def nothing_held_out_of_fold_2(self: Tones, **args: Any) -> None:
        construct(self, **args)
        self.held_out = tuple(fold for fold in self.held_out if fold != 2)

    monkeypatch.setattr(Tones, "__init__", nothing_held_out_of_fold_2)
    summary = sweep_toy(tmp_path, {FOLD: [1, 2]}, Setup__epochs=0)
    assert [record.held_out for record in summary.records.values()] == [(1,), ()]
    assert summary.pooled is None
    assert not (only(tmp_path / "Toy") / "predictions.csv").exists()


# Resuming


def test_a_sweep_resumed_with_different_weights_has_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.pt"
    monkeypatch.setattr(TwoTowers, "weights_files", (file,), raising=False)
    file.write_text("old")
    _, folder = swept(tmp_path, {FOLD: [1, 2]}, Setup__epochs=0)
    assert (folder / "predictions.csv").exists()
    (folder / "fold-2/result.json").unlink()
    file.write_text("new")
    summary = sweep_toy(tmp_path, {FOLD: [1, 2]}, Setup__epochs=0)
    assert summary.pooled is None
    assert not (folder / "predictions.csv").exists()
    said = (folder / "sweep.md").read_text()
    assert "No mean: the runs started from different weights: weights.pt (sha256 " in said
    assert "| no mean, n = 2 | 2 of 3 folds |  |" in said


def test_finished_runs_are_skipped_even_with_other_reporters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = swept(tmp_path, FOLDS)
    before = {fold: content(folder / fold) for fold in ("fold-1", "fold-2", "fold-3")}
    capsys.readouterr()
    reporters = [{"class": "toy_research.watching.Notebook"}]
    sweep_toy(tmp_path, FOLDS, Reporters=reporters, Setup__workers_test=1, Setup__log_interval=9)
    assert {fold: content(folder / fold) for fold in before} == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 of 3 runs are already finished; skipping fold-1, fold-2, fold-3"
    assert not any(line.startswith("Run ") for line in lines)
    assert lines[-1] == f"Report: {(folder / 'report.html').as_uri()}"


@pytest.mark.parametrize(
    ("sweep", "changes"),
    [
        ({FOLD: [1, 2]}, {}),
        ({FOLD: [1]}, {"Setup__epochs": 1}),
        ({FOLD: [1]}, {"Setup__seed": 8}),
        ({FOLD: [1]}, {"Model__args": {"dropout": 0.1}}),
    ],
)
def test_another_sweep_has_another_folder(
    tmp_path: Path, sweep: dict[str, list[Any]], changes: dict[str, Any]
) -> None:
    first = plan_toy(tmp_path, {FOLD: [1]})
    other = plan_toy(tmp_path, sweep, **changes)
    assert first.folder != other.folder
    assert first.folder.parent == other.folder.parent


def test_an_unfinished_run_without_a_state_is_kept_and_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = swept(tmp_path, FOLDS)
    for attempt in (1, 2):
        for state in (folder / "fold-2/checkpoints").glob("last_*"):
            state.unlink()
        log = (folder / "fold-2/metrics.jsonl").read_text()
        result = folder / "fold-2/result.json"
        result.write_text("{") if attempt == 2 else result.unlink()
        capsys.readouterr()
        assert sweep_toy(tmp_path, FOLDS).missing == []
        kept = folder / f"fold-2_unfinished-{attempt}"
        assert (kept / "metrics.jsonl").read_text() == log
        assert (folder / "fold-2/result.json").exists()
        assert (
            f"fold-2 is unfinished and has no state that fits this protocol. It starts over; its "
            f"old files are in {kept.name}.\n" in capsys.readouterr().out
        )


def test_a_failing_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, folder = swept(tmp_path, {"Task.args.explode_at": [3, None], FOLD: [1, 2]})
    assert summary.missing == ["explode_at-3_fold-1", "explode_at-3_fold-2"]
    assert {path.parent.name for path in folder.glob("*/result.json")} == {
        "explode_at-null_fold-1",
        "explode_at-null_fold-2",
    }
    assert "error: explode_at-3_fold-1: The loss is inf at epoch 2" in capsys.readouterr().err
    said = (folder / "sweep.md").read_text()
    assert "2 of 4 runs are finished. Missing: explode\\_at-3\\_fold-1, explode\\_at-3\\_fold-2." in said
    assert "explode\\_at-3\\_fold-1 failed: The loss is inf" in said
    assert "| explode\\_at-3\\_fold-2 | 3 | 2 | failed | failed |" in said


def test_a_problem_found_by_a_run_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = sweep_toy(tmp_path, {"Setup.batch_train": [21, 20]}, Setup__epochs=1)
    assert summary.missing == ["batch_train-21"]
    assert "error: batch_train-21: Setup.batch_train is 21, but the training split has 20" in (
        capsys.readouterr().err
    )


def test_an_unexpected_error_does_not_stop_the_other_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Signals have 16 values.
    summary, folder = swept(tmp_path, {"Model.args.length": [15, 16]}, Setup__epochs=1)
    assert summary.missing == ["length-15"]
    path = folder / "length-15/error.txt"
    assert path.read_text().startswith("Traceback (most recent call last):\n")
    assert "mat1 and mat2 shapes cannot be multiplied" in path.read_text()
    said = capsys.readouterr().err
    assert re.match("error: length-15: RuntimeError: .*mat1 and mat2 shapes cannot be multiplied", said)
    assert said.endswith(f"(traceback in {path})\n")
    assert "length-15 failed: RuntimeError" in (folder / "sweep.md").read_text()


def test_an_interruption_stops_the_sweep_and_says_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep_toy(tmp_path, FOLDS, Task__class="toy_research.learning.Interrupted")
    folder = only(tmp_path / "Toy")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["fold-1"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "The sweep was stopped; repeat the command to continue it."


# Seeds


def test_a_seed_is_drawn_once_for_the_entire_sweep_and_kept(tmp_path: Path) -> None:
    drawn = set()
    for root in (tmp_path / "a", tmp_path / "b"):
        sweep_toy(root, FOLDS, Setup__seed=None, Setup__epochs=0)
        (seed,) = set(seeds(only(root / "Toy")))
        drawn.add(seed)
    assert len(drawn) == 2, "two sweeps have two seeds"
    folder = only(root / "Toy")
    assert json.loads((folder / "sweep.json").read_text())["seed"] == seed
    (folder / "fold-2/result.json").unlink()
    sweep_toy(root, FOLDS, Setup__seed=None, Setup__epochs=0)
    assert seeds(folder) == [seed, seed, seed]


def test_swept_seeds_take_precedence(tmp_path: Path) -> None:
    _, folder = swept(tmp_path, {SEED: [3, 4]}, Setup__epochs=0)
    assert seeds(folder) == [3, 4]
    assert "2 seeds" in (folder / "sweep.md").read_text()


def test_a_sweep_with_an_unreadable_seed_is_not_resumed(tmp_path: Path) -> None:
    sweep_toy(tmp_path, {FOLD: [1]}, Setup__epochs=0)
    path = only(tmp_path / "Toy") / "sweep.json"
    path.write_text("{}")
    with pytest.raises(ProtocolError) as caught:
        sweep_toy(tmp_path, {FOLD: [1]}, Setup__epochs=0)
    assert str(caught.value) == (
        f"{path} cannot be read (KeyError('seed')); it holds the seed of the runs. Restore it, or rename "
        "the folder to start a new sweep."
    )
    path.write_text('{"seed": 5, "prot')
    with pytest.raises(ProtocolError, match=r"cannot be read \(JSONDecodeError"):
        sweep_toy(tmp_path, {FOLD: [1]}, Setup__epochs=0)


# Two processes


def test_a_second_process_cannot_run_the_same_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite_trainer.support.files._PATIENCE_SECONDS", 0.0)
    plan = plan_toy(tmp_path, FOLDS)
    plan.folder.mkdir(parents=True)
    with FileLock(plan.folder / "sweep.lock"), pytest.raises(ProtocolError) as caught:
        sweep_toy(tmp_path, FOLDS)
    assert str(caught.value) == (
        f"{plan.folder} is in use by another process: two processes would overwrite each other's results. "
        "Wait until it ends, or end it."
    )
    assert not list(plan.folder.glob("fold-*"))


def test_a_run_in_use_by_another_process_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ignite_trainer.support.files._PATIENCE_SECONDS", 0.0)
    plan = plan_toy(tmp_path, FOLDS)
    (plan.folder / "fold-2").mkdir(parents=True)
    with FileLock(plan.folder / "fold-2" / "run.lock"):
        assert sweep_toy(tmp_path, FOLDS).missing == ["fold-2"]
    assert "fold-2 is in use by another process" in capsys.readouterr().err
    assert not list(plan.folder.glob("*_unfinished-*"))
    assert sweep_toy(tmp_path, FOLDS).missing == []


def test_a_sweep_killed_in_its_third_fold_continues_with_it(command: Command) -> None:
    marker = command.folder / "kill"
    marker.touch()
    task = {"class": "toy_research.learning.Killed", "args": {"fold": 3, "marker": str(marker)}}
    path = command.write(Task=task, Dataset__args={"folds": 5}, Setup__save_every_steps=2)
    words = ["-c", str(path), *f"--Sweep.{FOLD} 1 2 3 4 5".split()]
    command.be_killed(*words)
    folder = only(command.results / "Toy")
    before = {fold: content(folder / fold) for fold in ("fold-1", "fold-2", "fold-3")}
    assert "result.json" not in before["fold-3"]
    assert json.loads((folder / "summary.json").read_text())["missing"] == ["fold-3", "fold-4", "fold-5"]

    marker.unlink()
    assert command(*words).status == 0
    assert only(command.results / "Toy") == folder
    for fold in ("fold-1", "fold-2"):
        assert content(folder / fold) == before[fold]
    assert not (folder / "fold-3_unfinished-1").exists()
    log = (folder / "fold-3/metrics.jsonl").read_text()
    assert log.startswith(before["fold-3"]["metrics.jsonl"][0].decode()), "it continued from its second step"
    values = [accuracies(folder / f"fold-{fold}")[-1] for fold in range(1, 6)]
    mean = sum(values) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    assert f"| mean ± sd, n = 5 | 5 of 5 folds | {mean:.4f} ± {deviation:.4f} |" in (
        (folder / "sweep.md").read_text()
    )
    table = (command.results / "table.md").read_text()
    assert f"{100 * mean:.1f} ± {100 * deviation:.1f} (5 of 5 folds, last epoch)" in table


def test_the_report_shows_every_runs_learning_curve(tmp_path: Path) -> None:
    reporters = [{"class": f"ignite_trainer.reporters.{name}"} for name in ("LearningCurve", "Report")]
    _, folder = swept(tmp_path, {FOLD: [1, 2]}, Setup__epochs=1, Reporters=reporters)
    page = (folder / "report.html").read_text()
    for name in ("fold-1", "fold-2"):
        assert f'alt="Loss and metrics of {name} by epoch"' in page
        assert f'<a href="{name}/report.html">' in page
