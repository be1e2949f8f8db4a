"""Prints the kernels of a training step by duration, as a table from torch's profiler.

    python tests/gpu/profile_step.py --output profile.txt -c protocols/audioclip-esc50.json

Short flags such as -b are not accepted, but any key of the protocol can be overridden.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ignite_trainer.commands.stopwatch import Stopwatch  # noqa: E402
from ignite_trainer.protocol.blueprint import draw  # noqa: E402
from ignite_trainer.protocol.loading import load  # noqa: E402
from ignite_trainer.protocol.overrides import split_overrides  # noqa: E402
from ignite_trainer.runs.assembly import assemble  # noqa: E402

WARM_UP_STEPS = 6
STEPS = 3
ROWS = 40


def table(path: Path, words: Sequence[str], *, trusted: Sequence[str] = ()) -> str:
    """Profile the training step of a protocol file with overrides; return the table as text."""
    own, overrides = split_overrides(words)
    if own:
        raise SystemExit(f"unknown: {' '.join(own)}")
    protocol = load(path, overrides, defaults=ROOT / "protocols" / "defaults.json")
    blueprint = draw(protocol, trusted=trusted)
    parts = assemble(blueprint, seed=1)
    watch = Stopwatch.of_training(blueprint, parts)
    cuda = parts.device.type == "cuda"
    parts.plan.train_mode(parts.model)
    with watch.conditions():
        watch.run(WARM_UP_STEPS)
        start = time.perf_counter()
        watch.run(STEPS)
        seconds = (time.perf_counter() - start) / STEPS
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities, record_shapes=True) as profiler:
            watch.run(STEPS)
    parts.close()
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    by_name = profiler.key_averages().table(sort_by=key, row_limit=ROWS, max_name_column_width=90)
    by_shape = profiler.key_averages(group_by_input_shape=True).table(
        sort_by=key, row_limit=ROWS, max_name_column_width=60, max_shapes_column_width=90
    )
    head = f"{1000 * seconds:.1f} ms a step of {protocol.setup.batch_train}, not profiled\n"
    return f"{head}\n{STEPS} steps, by name:\n{by_name}\n{STEPS} steps, by name and shapes:\n{by_shape}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", dest="protocol", type=Path, required=True, help="protocol file")
    parser.add_argument("--output", type=Path, required=True, help="text file to write")
    parser.add_argument("--trust", action="append", default=[], help="package whose classes it may name")
    flags, rest = parser.parse_known_args()
    text = table(flags.protocol, rest, trusted=flags.trust)
    flags.output.write_text(text)
    print(text[:12000])
