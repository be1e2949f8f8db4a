"""Kills a run at random moments, resumes it each time, and compares the result with an uninterrupted run.

    python tests/endurance/kill_and_resume.py --kills 20 --workers 0 2

The protocol is the toy protocol of the tests, with everything that a state can hold: momentum, dropout, a
scheduler, accumulated gradients, running averages, frozen weights. A kill comes during a step, an evaluation,
the writing of a checkpoint, or at any time, in turn. The exit status is 1 if a single bit differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from toy_research.protocols import toy  # noqa: E402
from toy_research.records import differences  # noqa: E402

PLACES = ("step", "evaluation", "checkpoint", "any")


def protocol(root: Path, flags: argparse.Namespace, *, workers: int) -> dict[str, Any]:
    """Return the toy protocol with results under `root`."""
    accuracy = {"class": "ignite.metrics.Accuracy", "is_checkpoint": True, "line_label": "Val. Acc."}
    seen = {"class": "ignite.metrics.Accuracy", "update_rate": "iteration", "line_label": "Seen"}
    return toy(
        root,
        Setup__epochs=flags.epochs,
        Setup__accumulate=2,
        Setup__batch_train=4,
        Setup__batch_test=4,
        Setup__workers_train=workers,
        Setup__workers_test=workers,
        Setup__save_every_steps=3,
        Task={"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": flags.step_seconds}},
        Model__args={"dropout": 0.5},
        Parameters=[{"match": r"right\.linear\..*", "train": False}, {"match": ".*"}],
        Optimizer={"class": "torch.optim.AdamW", "args": {"lr": 0.02}},
        Scheduler={"class": "torch.optim.lr_scheduler.MultiStepLR", "args": {"milestones": [1, 3]}},
        Dataset__args={"fold": 1, "samples": 45},
        Metrics={"Performance": {"lines": [accuracy, seen]}},
        Evaluations={"Confidence": {"class": "toy_research.measuring.Confidence", "every": 2}},
        Reporters=[{"class": "ignite_trainer.reporters.JsonLines"}],
    )


class Experiment:
    """A run of the protocol in separate processes."""

    def __init__(self, root: Path, flags: argparse.Namespace, *, workers: int) -> None:
        self._root = root
        self._file = root.with_suffix(".json")
        self._file.write_text(json.dumps(protocol(root, flags, workers=workers)))

    @property
    def folder(self) -> Path | None:
        """Folder of the run, once it exists."""
        return next(iter((self._root / "Toy").glob("*/")), None)

    def start(self) -> subprocess.Popen[bytes]:
        """Start or resume the run with its workers, in a separate session."""
        command = [sys.executable, "main.py", "-c", str(self._file), "--trust", "toy_research", "--resume"]
        path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the run; raise a RuntimeError if it failed."""
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"exit status {process.returncode}: {errors.decode()}")

    def kill_in(self, place: str, draw: random.Random) -> bool:
        """Start the run and kill it, with its workers, at such a moment; return False if it ended before."""
        process, lines = self.start(), len(self.log())
        while process.poll() is None and len(self.log()) <= lines and not self._writes():
            time.sleep(0.002)  # until it trains
        deadline = time.monotonic() + draw.uniform(0.0, 1.0)
        while process.poll() is None and (time.monotonic() < deadline or not self._is_in(place)):
            time.sleep(0.0005)
        if process.poll() is not None:
            self.finish(process)
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True

    def log(self) -> list[bytes]:
        """Return the lines of the log so far."""
        path = self.folder / "metrics.jsonl" if self.folder else None
        return path.read_bytes().splitlines() if path and path.exists() else []

    def _writes(self) -> bool:
        return self.folder is not None and any((self.folder / "checkpoints").glob("*.part"))

    def _is_in(self, place: str) -> bool:
        last = next(reversed(self.log()), b"")
        match place:
            case "checkpoint":
                return self._writes()
            case "evaluation":  # of the held-out split, which follows that of the training split
                return b'"split": "train", "metrics"' in last and b"evaluation" in last
            case "step":
                return b'"event": "iteration"' in last
            case _:
                return True


def try_out(folder: Path, flags: argparse.Namespace, *, workers: int) -> list[str]:
    """Compare a killed run with an uninterrupted one; return the differences."""
    draw = random.Random(flags.seed)
    whole, killed = (Experiment(folder / name, flags, workers=workers) for name in ("whole", "killed"))
    whole.finish(whole.start())
    for number in range(1, flags.kills + 1):
        place = PLACES[number % len(PLACES)]
        if not killed.kill_in(place, draw):
            return [f"it ended before kill {number} of {flags.kills}; give more --epochs"]
        last = next(reversed(killed.log()), b"").decode()
        print(f"| {workers} | {number} | {place} | `{last[:60]}` |")
    killed.finish(killed.start())
    assert whole.folder and killed.folder
    return differences(whole.folder, killed.folder)


def main(argv: Sequence[str]) -> int:
    """Run the comparison for each number of workers; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step-seconds", type=float, default=0.1, help="sleep in every step")
    parser.add_argument("--epochs", type=int, default=12)
    flags = parser.parse_args(argv)
    print("| workers | kill | place | last entry of the log |\n|---|---|---|---|")
    failed = False
    for workers in flags.workers:
        with TemporaryDirectory() as folder:
            found = try_out(Path(folder), flags, workers=workers)
        failed |= bool(found)
        result = "; ".join(found) or "bit-identical"
        print(f"| {workers} | all | | {result} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
