"""Runs of two processes under torchrun that are killed, fail, stop, and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.protocols import toy
from toy_research.records import events, only_run

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]


def torchrun(path: Path, *words: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *(f"--max-restarts={restarts}", "main.py", "-c", str(path), "--trust", "toy_research", *words),
    ]
    search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def protocol(folder: Path, how: str, *, parts_together: bool = False, **changes: Any) -> Path:
    """Write the protocol of a run whose second process fails in its fifth step."""
    marker = folder / "marker"
    marker.touch()
    args = {"marker": str(marker), "how": how, "parts_together": parts_together}
    task = {"class": "toy_research.failing.FailingRank", "args": args}
    raw = toy(folder, Setup__epochs=4, Setup__batch_of="all", Setup__save_every_steps=1, Task=task, **changes)
    raw["Reporters"] = raw["Reporters"][1:]
    path = folder / "toy.json"
    path.write_text(json.dumps(raw))
    return path


def test_a_job_whose_process_was_killed_restarts_bit_identically(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    killed = torchrun(protocol(tmp_path / "a", "SIGKILL"), restarts=1)
    assert killed.returncode == 0, killed.stderr[-3000:]
    assert "exitcode: -9" in killed.stderr
    assert "Another process has exited, and this one cannot continue alone" in killed.stderr
    whole = protocol(tmp_path / "b", "SIGKILL")
    (tmp_path / "b" / "marker").unlink()
    assert torchrun(whole).returncode == 0
    runs = [only_run(tmp_path / name) for name in "ab"]
    states = [torch.load(next(run.glob("checkpoints/last_*.pt")), weights_only=True) for run in runs]
    for name, value in states[1]["model"].items():
        assert torch.equal(states[0]["model"][name], value), name
    assert (runs[0] / "predictions.csv").read_text() == (runs[1] / "predictions.csv").read_text()
    figures = [
        [
            (entry["epoch"], entry["split"], entry["metrics"])
            for entry in events(run)
            if entry["event"] == "evaluation"
        ]
        for run in runs
    ]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 9


def test_an_error_of_one_process_ends_all_and_is_reported_once(tmp_path: Path) -> None:
    started = time.monotonic()
    failed = torchrun(protocol(tmp_path, "raises"))
    assert failed.returncode == 1
    assert failed.stderr.count("error: the fan of rank 1 is broken.") == 1
    assert "(process 1 of 2, counted from 0)" in failed.stderr
    assert "error: Another process" not in failed.stderr
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("how", "message"), [("raises", "error: the fan"), ("breaks", "TypeError: the fan")])
def test_a_process_that_fails_does_not_wait_for_the_others(tmp_path: Path, how: str, message: str) -> None:
    """With NCCL, leaving the group waits for the others, which wait for this process in their next step."""
    failed = torchrun(protocol(tmp_path, how, parts_together=True))
    assert failed.returncode == 1
    assert failed.stderr.count(message) == 1


def test_an_error_of_one_process_during_data_preparation_ends_all(tmp_path: Path) -> None:
    raw = toy(tmp_path, Dataset__class="toy_research.failing.PreparedByOne")
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(raw))
    failed = torchrun(path)
    assert failed.returncode == 1
    assert failed.stderr.count("error: Dataset: the disk of rank 1 is gone.") == 1


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    path = protocol(tmp_path, "SIGUSR1")
    stopped = torchrun(path)
    assert "stopped by SIGUSR1; progress is saved in" in stopped.stderr
    assert stopped.stderr.count("continue with:") == 1
    assert list(only_run(tmp_path).glob("checkpoints/last_epoch-3_step-5.pt"))
    assert torchrun(path, "--resume").returncode == 0
    assert (only_run(tmp_path) / "result.json").exists()


@pytest.mark.slow
def test_several_processes_run_and_resume_a_sweep(tmp_path: Path) -> None:
    path = protocol(tmp_path, "raises", Sweep={"Dataset.args.fold": [1, 2]})
    assert torchrun(path).returncode == 1
    assert torchrun(path).returncode == 0
    folder = only_run(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["missing"] == []


def test_a_check_refuses_several_processes(tmp_path: Path) -> None:
    refused = torchrun(protocol(tmp_path, "raises"), "--check")
    assert refused.returncode == 1
    assert "--check, --explain and --benchmark use one process; run them without torchrun." in refused.stderr
