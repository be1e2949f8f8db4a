"""`--explain`: origins of values, trained parameters, shapes and estimates, with and without data."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.network import TwoTowers
from toy_research.protocols import Command, Done, draw_toy, run_toy, toy

from ignite_trainer.checkpoints import checkpoint_files
from ignite_trainer.commands import check_room
from ignite_trainer.commands.estimates import Checkpoint, Estimates, Step, estimate, extrapolate
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.support import files


@pytest.fixture
def explain(command: Command) -> Callable[..., Done]:
    """Return the command that explains a toy protocol; its task comes from the defaults."""
    base = toy(command.results, Setup__seed=None)
    task = base.pop("Task")
    (command.folder / "base.json").write_text(json.dumps(base))
    path = command.folder / "own.json"
    path.write_text(json.dumps({"extends": "base.json", "Setup": {"epochs": 3}}))
    command.defaults.write_text(json.dumps({base["Model"]["class"]: {"Task": task}}))
    return functools.partial(command, "-c", path, "--explain")


def test_a_protocol_is_explained_and_nothing_is_written(explain: Callable[..., Done], tmp_path: Path) -> None:
    status, said, _ = explain("-b", "8")
    assert status == 0
    assert "Setup.batch_train" in said
    assert "(--Setup.batch_train)" in said
    assert "trained" in said
    assert "group 0" in said
    assert "[B, " in said
    for line in ("Training step", "Evaluation step", "Epoch", "Whole run", "Memory"):
        assert line in said
    assert len(re.findall(r"about [\d.]+ [kMG]B needed; [\d.,]+ GB free", " ".join(said.split()))) == 1
    assert "GiB" not in said
    assert not (tmp_path / "results").exists()


def test_an_evaluation_mentions_no_held_out_samples(explain: Callable[..., Done]) -> None:
    status, said, _ = explain("-e", "0")
    assert status == 0
    assert re.search(r"Samples +\d+ for evaluation", said) and " held out" not in said


def test_without_data_the_rest_is_explained(explain: Callable[..., Done]) -> None:
    status, said, _ = explain("--Dataset.args.fold", "99")
    assert (status, "group 0" in said) == (0, True)
    assert "cannot tell shapes, memory and time without data and model:\n  Dataset.args.fold is 99" in said


def test_an_unknown_class_is_an_error(explain: Callable[..., Done]) -> None:
    status, said, _ = explain("--Dataset.class", "toy_research.signals.Nothing")
    assert (status, "Dataset.class is toy_research.signals.Nothing" in said) == (2, True)


def test_time_and_memory_are_extrapolated_linearly_from_two_sizes() -> None:
    few, more = Step(4, 1.0, 1000, 4), Step(12, 2.0, 1800, 12)
    whole = extrapolate(few, more, 64)
    assert whole.seconds == pytest.approx(2.0 + 52 / 8)
    assert (whole.samples, whole.peak_bytes, whole.measured) == (64, 1800 + 52 * 100, 12)
    # An estimate is never smaller than the measurement.
    assert extrapolate(few, Step(12, 0.9, None, 12), 64) == Step(64, 0.9, None, 12)


def estimates(root: Path, **changes: object) -> Estimates:
    blueprint = draw_toy(root, **changes)
    torch.manual_seed(0)
    parts = assemble(blueprint, seed=0)
    try:
        return estimate(blueprint, parts, seed=0)
    finally:
        parts.close()


def test_the_time_of_an_epoch_is_that_of_its_steps_and_of_the_evaluations_after_it(tmp_path: Path) -> None:
    found = estimates(tmp_path, Setup__epochs=2)
    training, evaluation = found.steps["training"], found.steps["evaluation"]
    assert training.samples == 8
    sizes = assemble(draw_toy(tmp_path), seed=0).sizes
    expected = sizes["train"] // 8 * training.seconds
    expected += (sizes["train"] + sizes["test"]) / evaluation.samples * evaluation.seconds
    assert isinstance(found.checkpoint, Checkpoint)
    last = found.checkpoint.seconds
    assert found.seconds_per_epoch == pytest.approx(max(expected, last))
    first = sizes["test"] / evaluation.samples * evaluation.seconds
    assert found.seconds_per_run == pytest.approx(2 * found.seconds_per_epoch + first + last)


def test_a_checkpoint_is_written_during_the_next_epoch_and_the_last_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_durably

    def slowly(*args: Any) -> str:
        time.sleep(1.0)
        return write(*args)

    monkeypatch.setattr(checkpoint_files, "write_durably", slowly)
    found = estimates(tmp_path, Setup__epochs=2)
    assert isinstance(found.checkpoint, Checkpoint)
    # One second for a state, one for the best weights.
    assert found.checkpoint.seconds == pytest.approx(2.0, abs=0.5)
    assert found.seconds_per_epoch == found.checkpoint.seconds  # an epoch of a few small steps waits for it
    parameters = sum(value.nbytes for value in TwoTowers().parameters())
    assert found.checkpoint.copy_bytes > 2 * parameters  # parameters and their momentum
    assert not list(tmp_path.iterdir())


def test_without_space_for_a_checkpoint_the_steps_are_still_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    found = estimates(tmp_path)
    assert isinstance(found.checkpoint, str)
    assert "No space left on device" in found.checkpoint
    assert found.seconds_per_run > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"Setup__epochs": 0},
        {"Setup__batch_train": 2},
        {"Setup__batch_test": 1},
        {"Setup__ema": 0.9},
        {"Setup__accumulate": 2, "Setup__skip_train_evaluation": True},
        {"Dataset__args": {"folds": 30, "fold": 1}},  # one sample is held out
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_small_and_unusual_runs_are_estimated(tmp_path: Path, changes: dict[str, object]) -> None:
    found = estimates(tmp_path, **changes)
    assert isinstance(found.checkpoint, Checkpoint)
    assert found.seconds_per_run > 0
    trains = changes.get("Setup__epochs") != 0
    assert ("training" in found.steps) == (found.checkpoint.seconds > 0) == trains


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a peak of memory"
)
def test_the_estimated_memory_is_the_peak_of_the_process(tmp_path: Path) -> None:
    peak = estimates(tmp_path).peak_bytes
    resident = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])
    assert peak == pytest.approx(resident, rel=0.3)


@pytest.mark.slow
def test_the_time_of_a_run_is_close_to_the_estimate(tmp_path: Path) -> None:
    changes = {
        "Task": {"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": 0.3}},
        "Setup__epochs": 4,
    }
    found = estimates(tmp_path, **changes)
    start = time.perf_counter()
    run_toy(tmp_path, **changes)
    assert found.seconds_per_run == pytest.approx(time.perf_counter() - start, rel=0.3)


def test_too_little_memory_or_disk_space_is_a_warning(
    explain: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limit").write_text("1000\n")
    monkeypatch.setattr(check_room, "_LIMIT", tmp_path / "limit")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, said, _ = explain()
    said = " ".join(said.split())
    assert status == 0
    assert "of memory; 1 kB is free. Lower the batch" in said
    assert "of disk space is needed; 1 kB is free" in said
