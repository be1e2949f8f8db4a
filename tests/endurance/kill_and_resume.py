"""Kill a run at random moments, go on each time, and compare what it leaves with an uninterrupted run.

    python tests/endurance/kill_and_resume.py --kills 20 --workers 0 2

The protocol is the toy one of the tests, with all that a state has to carry: momentum, dropout, a scheduler,
accumulated gradients, averages over steps, frozen weights. Of the kills, some come at a random time, some in
the middle of an evaluation or of the writing of a checkpoint. Exit status 1: something differs by a bit.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from toy_research.protocols import toy  # noqa: E402
from toy_research.records import differences  # noqa: E402

PLACES = ("step", "evaluation", "checkpoint", "any")


def protocol(root: Path, *, workers: int, step_seconds: float, epochs: int) -> dict[str, Any]:
    """The toy protocol with results under `root`."""
    accuracy = {"class": "ignite.metrics.Accuracy", "is_checkpoint": True, "line_label": "Val. Acc."}
    seen = {"class": "ignite.metrics.Accuracy", "update_rate": "iteration", "line_label": "Seen"}
    return toy(
        root,
        Setup__epochs=epochs,
        Setup__accumulate=2,
        Setup__batch_train=4,
        Setup__batch_test=4,
        Setup__workers_train=workers,
        Setup__workers_test=workers,
        Setup__save_every_steps=3,
        Task={"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": step_seconds}},
        Model__args={"dropout": 0.5},
        Parameters=[{"match": r"right\.linear\..*", "train": False}, {"match": ".*"}],
        Optimizer={"class": "torch.optim.AdamW", "args": {"lr": 0.02}},
        Scheduler={"class": "torch.optim.lr_scheduler.MultiStepLR", "args": {"milestones": [1, 3]}},
        Dataset__args={"fold": 1, "samples": 45},
        Metrics={"Performance": {"lines": [accuracy, seen]}},
        Evaluations={
            "Confidence": {"class": "toy_research.measuring.Confidence", "every": 2},
        },
        Reporters=[{"class": "ignite_trainer.reporters.JsonLines"}],
    )


def start(file: Path) -> subprocess.Popen[bytes]:
    """Begin, or go on with, the run of a protocol file; in a session of its own with its workers."""
    command = [sys.executable, "main.py", "-c", str(file), "--trust", "toy_research", "--resume"]
    path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run_folder(root: Path) -> Path | None:
    """The one folder of a run there is, as soon as there is one."""
    return next(iter((root / "Toy").glob("*/")), None)


def wait_for(place: str, root: Path, process: subprocess.Popen[bytes], draw: random.Random) -> None:
    """Wait until the run is somewhere in `place`, or has ended."""
    before = _log(root)
    while process.poll() is None and len(_log(root)) <= len(before) and not _parts(root):
        time.sleep(0.002)  # until it trains
    deadline = time.monotonic() + draw.uniform(0.0, 1.0)
    while process.poll() is None and (time.monotonic() < deadline or not _is_in(place, root)):
        time.sleep(0.0005)


def _is_in(place: str, root: Path) -> bool:
    log = _log(root)
    if place == "checkpoint":
        return bool(_parts(root))
    if place == "evaluation":  # of the held-out split, after that of the training split
        return bool(log) and b'"split": "train", "metrics"' in log[-1] and b"evaluation" in log[-1]
    if place == "step":
        return bool(log) and b'"event": "iteration"' in log[-1]
    return True


def _log(root: Path) -> list[bytes]:
    folder = run_folder(root)
    path = folder / "metrics.jsonl" if folder else None
    return path.read_bytes().splitlines() if path and path.exists() else []


def _parts(root: Path) -> list[Path]:
    folder = run_folder(root)
    return list((folder / "checkpoints").glob("*.part")) if folder else []


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its workers as a machine that is lost does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def carry_out(file: Path) -> None:
    """Let the run come to its end.

    Raises:
        RuntimeError: it failed.
    """
    process = start(file)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {said.decode()}")


def try_out(
    folder: Path,
    *,
    kills: int,
    workers: int,
    seed: int,
    step_seconds: float = 0.03,
    epochs: int = 6,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Compare a run that is killed so often with one that is not; return what differs."""
    draw = random.Random(seed)
    files = {}
    for name in ("whole", "killed"):
        files[name] = folder / f"{name}.json"
        content = protocol(folder / name, workers=workers, step_seconds=step_seconds, epochs=epochs)
        files[name].write_text(json.dumps(content))
    carry_out(files["whole"])
    done = 0
    for number in range(1, kills + 1):
        place = PLACES[number % len(PLACES)]
        process = start(files["killed"])
        wait_for(place, folder / "killed", process, draw)
        if process.poll() is not None:
            _, said = process.communicate()
            if process.returncode:
                return [f"exit status {process.returncode}: {said.decode()}"]
            say(f"| {workers} | {number} | {place} | it had ended |")
            break
        kill(process)
        done += 1
        last = json.loads(_log(folder / "killed")[-1] or b"{}") if _complete_line(folder / "killed") else {}
        say(f"| {workers} | {number} | {place} | {last.get('event')} at {last.get('iteration')} |")
    carry_out(files["killed"])
    runs = [run_folder(folder / name) for name in ("whole", "killed")]
    assert runs[0]
    assert runs[1]
    found = differences(runs[0], runs[1])
    return found if done == kills else [*found, f"only {done} of {kills} kills came before its end"]


def _complete_line(root: Path) -> bool:
    log = _log(root)
    try:
        return bool(log) and bool(json.loads(log[-1]))
    except ValueError:
        return False


def main(argv: Sequence[str]) -> int:
    """Try it out with so many workers each; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--step-seconds", type=float, default=0.1, help="sleep in every step, so that kills hit"
    )
    parser.add_argument("--epochs", type=int, default=12)
    flags = parser.parse_args(argv)
    print("| workers | kill | asked for | last entry of the log |\n|---|---|---|---|")
    failed = False
    for workers in flags.workers:
        with TemporaryDirectory() as folder:
            found = try_out(
                Path(folder),
                kills=flags.kills,
                workers=workers,
                seed=flags.seed,
                step_seconds=flags.step_seconds,
                epochs=flags.epochs,
            )
        failed |= bool(found)
        print(
            f"| {workers} | all | | {'; '.join(found) or 'bit-equal to the uninterrupted run'} |", flush=True
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
