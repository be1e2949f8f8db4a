"""Stops a run within an epoch, resumes it, and compares it with two uninterrupted runs.

    python tests/gpu/resume.py --json resume.json -M results -c protocols/quickstart.json -e 3 -L 1

No two runs are alike on a device that sums in arbitrary order, so the resumed run may differ about as much as
the two uninterrupted runs differ from each other. --deterministic uses torch's deterministic algorithms, and
lists the operations that have none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ignite_trainer.commands import cli  # noqa: E402

STOPPED = cli.EXIT_STOPPED
TOLERATED = 10.0  # times the difference between two uninterrupted runs


@dataclass(frozen=True)
class Difference:
    """Difference between two finished runs.

    Attributes:
        weights: norm of the difference of all weights, divided by their norm.
        losses: largest relative difference of a logged loss.
        metrics: largest difference of a metric.
    """

    weights: float
    losses: float
    metrics: float


def compare(first: Path, second: Path) -> Difference:
    """Compare the last weights and the logs of two runs, given their folders."""
    ours, theirs = _last_weights(first), _last_weights(second)
    assert ours.keys() == theirs.keys(), "the runs saved different tensors"
    squared_distance = sum(float((tensor - theirs[name]).square().sum()) for name, tensor in ours.items())
    weights = math.sqrt(squared_distance / sum(float(tensor.square().sum()) for tensor in ours.values()))
    losses, metrics = 0.0, 0.0
    for one, other in zip(_log(first), _log(second), strict=True):
        if "loss" in one:
            losses = max(losses, abs(one["loss"] - other["loss"]) / max(abs(one["loss"]), 1e-12))
        for label, value in one["metrics"].items():
            metrics = max(metrics, abs(value - other["metrics"][label]))
    return Difference(weights, losses, metrics)


def _last_weights(run: Path) -> dict[str, Tensor]:
    """Read the model's floating-point tensors from the last state of a run."""
    [path] = (run / "checkpoints").glob("last_*.pt")
    content = torch.load(path, map_location="cpu", weights_only=True)
    return {name: x.double() for name, x in content["model"].items() if x.is_floating_point() and x.numel()}


def _log(run: Path) -> list[dict[str, Any]]:
    """Read a run's log without repeated entries: a resumed run logs the steps since its last state again."""
    entries = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] in ("iteration", "evaluation"):
            entries[entry["event"], entry["iteration"], entry.get("split")] = entry
    return list(entries.values())


def carry_out(words: Sequence[str], root: Path, *, stop_in_epoch: int | None = None) -> Path:
    """Run a protocol; return the folder of the run.

    Args:
        words: command-line arguments.
        root: root folder of the results.
        stop_in_epoch: epoch in which to send this process SIGTERM; the run is then resumed.

    Raises:
        RuntimeError: A run failed, or ended before it was stopped.
    """
    argv = [*words, "-M", str(root)]
    if stop_in_epoch is not None:
        watch = threading.Thread(target=_stop, args=(root, stop_in_epoch), daemon=True)
        watch.start()
        _main(argv, expected=STOPPED)
        argv.append("--resume")
    _main(argv, expected=0)
    [run] = (path.parent for path in root.glob("*/*/result.json"))
    return run


def _main(argv: Sequence[str], *, expected: int) -> None:
    status = cli.main(argv, defaults=ROOT / "protocols" / "defaults.json")
    if status != expected:
        raise RuntimeError(f"exit status {status} of {' '.join(argv)}; {expected} was expected")


def _stop(root: Path, epoch: int) -> None:
    """Send this process SIGTERM once the log has a step of the epoch."""
    logs: list[Path] = []
    while not logs or not _has_step(logs[0], epoch):
        time.sleep(0.002)
        logs = list(root.glob("*/*/metrics.jsonl"))
    os.kill(os.getpid(), signal.SIGTERM)


def _has_step(log: Path, epoch: int) -> bool:
    found = re.search(rf'"event": "iteration".*"epoch": {epoch},', log.read_text())
    return found is not None


@contextlib.contextmanager
def nondeterministic_operations(*, asked: bool) -> Iterator[list[str]]:
    """Use deterministic algorithms if `asked`; after the block, the list names the operations without one."""
    found: list[str] = []
    torch.use_deterministic_algorithms(asked, warn_only=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    torch.use_deterministic_algorithms(False)
    for warning in caught:
        name = re.match(r"(\S+) does not have a deterministic implementation", str(warning.message))
        if name and name[1] not in found:
            found.append(name[1])


def main(argv: Sequence[str]) -> int:
    """Do the three runs, and write their differences; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("-M", type=Path, required=True, help="root of the results")
    parser.add_argument("--deterministic", action="store_true", help="use deterministic algorithms")
    flags, words = parser.parse_known_args(argv)
    with nondeterministic_operations(asked=flags.deterministic) as without_order:
        whole = carry_out(words, flags.M / "whole")
        again = carry_out(words, flags.M / "again")
        resumed = carry_out(words, flags.M / "resumed", stop_in_epoch=2)
    run_to_run, after_resuming = compare(whole, again), compare(whole, resumed)
    passed = after_resuming.weights <= TOLERATED * run_to_run.weights
    content = {
        "deterministic": flags.deterministic,
        "run_to_run": asdict(run_to_run),
        "resumed": asdict(after_resuming),
        "without_deterministic_algorithm": without_order,
        "passed": passed,
    }
    flags.json.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
