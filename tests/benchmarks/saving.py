"""Measures how long saving delays training, and how much it writes, for a protocol's untrained network.

    python tests/benchmarks/saving.py protocols/audioclip-esc50.json --saves 3

Each save follows an epoch that is the best so far. "Waiting" is the duration of `Checkpoints.save`, which
runs between the last step of an epoch and the first step of the next. "Stalled" is the longest time for which
Python does not run in the training thread while files are written.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ignite_trainer.checkpoints.checkpoints import Checkpoints  # noqa: E402
from ignite_trainer.checkpoints.state_validation import Position  # noqa: E402
from ignite_trainer.protocol.blueprint import draw  # noqa: E402
from ignite_trainer.protocol.loading import load  # noqa: E402
from ignite_trainer.support.memory import freed_memory  # noqa: E402
from ignite_trainer.training.optimization import build_optimizer  # noqa: E402
from ignite_trainer.training.parameters import apply_rules  # noqa: E402


def main() -> None:
    """Measure every save, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="folder on the disk to measure; default: the folder for temporary files"
    )
    options = parser.parse_args()
    protocol = load(options.protocol, defaults=ROOT / "protocols/defaults.json")
    blueprint = draw(protocol)
    if blueprint.optimizer is None or protocol.optimizer is None:
        raise SystemExit(f"{options.protocol} trains nothing.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = blueprint.model(**{**protocol.model.args, "pretrained": False}).to(device)
    plan = apply_rules(model, protocol.parameters)
    optimizer = build_optimizer(blueprint.optimizer, protocol.optimizer.args, plan.groups)
    with TemporaryDirectory(dir=options.folder) as folder, freed_memory(kept=protocol.setup.keep_memory):
        checkpoints = Checkpoints(Path(folder), protocol, model=model, state={"optimizer": optimizer})
        print("| save | waiting, s | written after, s | stalled, s | state, MB | all files, MB |")
        print("|---|---|---|---|---|---|", flush=True)
        for epoch in range(1, options.saves + 1):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            values = {line.line_label: float(epoch) for line in protocol.lines.values()}
            checkpoints.save(values, position=Position(epoch=epoch, iteration=epoch, complete=True))
            waiting = time.perf_counter() - start
            stalled = _longest_stall(Path(folder) / f"last_epoch-{epoch}.pt")
            checkpoints.finish()
            written = time.perf_counter() - start
            state = next(Path(folder).glob(f"last_epoch-{epoch}.pt")).stat().st_size
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(
                f"| {epoch} | {waiting:.3f} | {written:.2f} | {stalled:.3f} | {state / 1e6:,.1f} | "
                f"{size / 1e6:,.1f} |",
                flush=True,
            )


def _longest_stall(awaited: Path) -> float:
    """Check for a file every millisecond until it exists; return the longest time between two checks."""
    longest, last = 0.0, time.perf_counter()
    while not awaited.exists():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


if __name__ == "__main__":
    main()
