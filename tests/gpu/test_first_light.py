"""The GPU script in a dry run on the CPU: every step runs, and the summary shows their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.summary import projected_seconds, summarise
from tests.gpu.too_large import advised_flags

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
def test_every_step_runs_in_miniature_on_the_cpu(tmp_path: Path) -> None:
    script = ["bash", "tests/gpu/first_light.sh", str(tmp_path), "--rehearse", "--budget", "290"]
    # The script calls `python`.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {step["name"]: step["status"] for step in json.loads((tmp_path / "steps.json").read_text())}
    assert set(steps.values()) == {"ok"}
    assert len(steps) == 19
    summary = (tmp_path / "summary.md").read_text()
    assert "No value below is a measurement." in summary
    rows = {line.split("|")[1].strip(): line for line in summary.splitlines() if line.startswith("| ")}
    for name in ("bf16", "bf16, compiled", "fp16", "fp32"):
        assert rows[name].count("no result") == 1  # only the memory of a device is missing
    for name in ("agreement with the recorded values", "ESC-10, five folds from random weights"):
        assert "no result" not in rows[name]
    assert "bit-identical" in rows["stopped and resumed"]
    assert "bit-identical" in rows["killed and resumed"]
    assert (tmp_path / "first_light.tar.gz").stat().st_size > 1000


def test_a_projection_counts_every_clip_of_five_folds() -> None:
    # Each of 5 folds trains on 50 x 1,600 clips; evaluations: 51 x 400 held-out, 50 x 1,600 training clips.
    assert projected_seconds(1000.0, 2000.0, skip_train=True) == pytest.approx(5 * (80.0 + 10.2))
    assert projected_seconds(1000.0, 2000.0, skip_train=False) == pytest.approx(5 * (80.0 + 50.2))


def test_a_cell_has_the_result_or_the_reason_why_it_is_missing(tmp_path: Path) -> None:
    steps = [
        {
            "name": "benchmark-bf16",
            "seconds": 40,
            "status": "ok",
            "command": "python main.py -M /x/y -c a.json",
        },
        {"name": "benchmark-fp16", "seconds": 90, "status": "timed out after 90 s", "command": ""},
        {"name": "resume", "seconds": 30, "status": "ok", "command": ""},
    ]
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    speeds = {
        "this protocol": {"samples_per_second": 1234.5},
        "bare-backbone": {"samples_per_second": 1500.0, "gain": {"median": 0.823}},
        "published-code": {"samples_per_second": 123.45},
    }
    measured = {
        "activities": {"training": {"speeds": speeds}, "evaluation": {"speeds": speeds}},
        "peak_memory_bytes": {"device": 13 * 2**30},
    }
    folder = tmp_path / "benchmark-bf16" / "Name" / "run"
    folder.mkdir(parents=True)
    (folder / "benchmark.json").write_text(json.dumps(measured))
    (tmp_path / "resume.json").write_text(
        json.dumps(
            {
                "run_to_run": {"weights": 0.02},
                "resumed": {"weights": 0.01},
                "without_deterministic_algorithm": ["scatter_add"],
                "passed": True,
            }
        )
    )
    summary = summarise(tmp_path)
    assert "`python main.py -c a.json`" in summary
    assert "| bf16 | 1,234 | 0.82 | 10.0 | 1,234 | 0.82 | 10.0 | 13.0 GiB |" in summary
    assert "| fp16 | timed out after 90 s |" in summary
    assert "| fp32 | not run |" in summary
    assert "weights differ by 0.01 (two uninterrupted runs: 0.02); not deterministic: scatter_add" in summary


@pytest.mark.parametrize(
    ("message", "flags"),
    [
        (
            "Start a new run with -b 8 --Setup.accumulate 4, which keeps 32 samples per step",
            ["-b", "8", "--Setup.accumulate", "4"],
        ),
        ("Start a new run with --Setup.chunk 32, which embeds", ["--Setup.chunk", "32"]),
        ("Not enough memory", []),
    ],
)
def test_advice_is_read_from_the_error(message: str, flags: list[str]) -> None:
    assert advised_flags(message) == flags
