"""Trains for many epochs on a tiny data set, and monitors memory, open files and threads.

    python tests/endurance/soak.py --epochs 300

The exit status is 1 if, after the tenth epoch, resident memory grows by more than 10 % and 32 MiB, or the
number of open files or threads grows.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from toy_research.protocols import TRUSTED, toy  # noqa: E402
from toy_research.watching import Watch  # noqa: E402

from ignite_trainer.protocol.blueprint import draw  # noqa: E402
from ignite_trainer.protocol.validation import validate  # noqa: E402
from ignite_trainer.runs.experiment import run  # noqa: E402

SHARE, MIB = 0.10, 32.0


def grown(seen: dict[int, tuple[float, int, int]]) -> list[str]:
    """Return the quantities that have grown since the first measurement."""
    first, last = seen[min(seen)], seen[max(seen)]
    found = []
    if last[0] - first[0] > max(MIB, SHARE * first[0]):
        found.append(f"memory: {first[0]:.0f} to {last[0]:.0f} MiB")
    found += [
        f"{name}: {before} to {after}"
        for name, before, after in zip(("open files", "threads"), first[1:], last[1:], strict=True)
        if after > before
    ]
    return found


def main(argv: Sequence[str]) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=0)
    flags = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    print("| epoch | resident, MiB | open files | threads |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        changes: dict[str, Any] = {
            "Setup__epochs": flags.epochs,
            "Setup__workers_train": flags.workers,
            "Setup__workers_test": flags.workers,
            "Setup__save_every_steps": 1,
            "Reporters": [
                {"class": "toy_research.watching.Watch"},
                {"class": "ignite_trainer.reporters.JsonLines"},
                {"class": "ignite_trainer.reporters.LearningCurve"},
                {"class": "ignite_trainer.reporters.Report"},
            ],
        }
        run(draw(validate(toy(Path(folder), **changes)), trusted=TRUSTED))
    found = grown(Watch.seen)
    print("; ".join(found) or "nothing grows")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
