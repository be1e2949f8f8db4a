"""The quickstart over all folds of its made sounds, from the command line: killed, and called again."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ignite_trainer.support.formatting import percent

ROOT = Path(__file__).parent.parent
SMALL = """
    -c protocols/quickstart.json -e 1 -b 6 -S
    --Dataset.args.clips_per_class_and_fold 1 --Dataset.args.seconds 0.3
    --Model.args.spec_height 32 --Model.args.spec_width 32
    --Transforms.3.args.out_len 13230 --Transforms.4.args.out_len 13230
    --Transforms.6.args.out_len 13230 --Transforms[-1].args.out_len 13230
    --Sweep.Dataset.args.fold 1 2 3 4 5
""".split()  # noqa: SIM905
PATIENCE_SECONDS = 300


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below, with the time it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for path in folder.glob(pattern):
            return path
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {folder}")


def last_accuracy(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([line for line in lines if line["event"] == "evaluation"][-1]["metrics"]["Val. Acc."])


@pytest.mark.slow
def test_a_sweep_killed_in_the_third_fold_repeats_neither_of_the_first_two(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", "-M", str(tmp_path / "results"), *SMALL]
    environment = {**os.environ, "AUDIOCLIP_CACHE": str(tmp_path / "cache")}
    with (tmp_path / "output").open("w") as output:
        killed = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            log = wait_for(tmp_path / "results/Quickstart", "sweep_*/fold-3/metrics.jsonl")
        finally:
            killed.kill()
            killed.wait()
    sweep = log.parent.parent
    assert not (log.parent / "result.json").exists()
    before = {name: content(sweep / name) for name in ("fold-1", "fold-2", "fold-3")}

    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    for name in ("fold-1", "fold-2"):
        assert content(sweep / name) == before[name]
    if list((sweep / "fold-3_unfinished-1").glob("*")):  # it was killed before its first state
        assert content(sweep / "fold-3_unfinished-1") == before["fold-3"]
    assert [path.name for path in (tmp_path / "results/Quickstart").iterdir()] == [sweep.name]

    values = [last_accuracy(sweep / f"fold-{fold}") for fold in range(1, 6)]
    mean = sum(values) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    assert f"| mean ± sd, n = 5 | 5 of 5 folds | {mean:.4f} ± {deviation:.4f} |" in (
        (sweep / "sweep.md").read_text()
    )
    table = (tmp_path / "results/table.md").read_text()
    assert f"| {percent(mean)} ± {percent(deviation)} (5 of 5 folds) |  |" in table
