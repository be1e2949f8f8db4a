"""Plots cost against size: an epoch by clips, an evaluation by classes, retrieval by items.

Run by hand; takes some minutes on two cores:

    python tests/benchmarks/scaling.py assets/scaling.png [--rounds 3]

It writes the plot and, alongside it, the seconds as JSON. Absolute times depend on the machine; the plot
shows how they grow.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from matplotlib.ticker import StrMethodFormatter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ignite_trainer.commands.stopwatch import Stopwatch  # noqa: E402
from ignite_trainer.protocol.blueprint import Blueprint, draw  # noqa: E402
from ignite_trainer.protocol.loading import load  # noqa: E402
from ignite_trainer.protocol.overrides import split_overrides  # noqa: E402
from ignite_trainer.reporters.drawing import COLOURS, GREY, dress, new_figure, save  # noqa: E402
from ignite_trainer.results.run_folder import describe_environment  # noqa: E402
from ignite_trainer.runs.assembly import Parts, assemble  # noqa: E402
from ignite_trainer.support.files import write_json  # noqa: E402
from utils.evaluations.retrieval import PositivePairs, retrieval_metrics  # noqa: E402

CLIPS = (100, 400, 1600)
CLASSES = (10, 100, 500)
HELD_OUT_CLIPS = 500
ITEMS = (1_000, 10_000, 100_000)
QUERIES = 200
DIMENSION = 256
FILE_RATE = 44100
SECONDS = 0.25

# The quickstart's AudioCLIP on clips of a quarter of a second.
SMALL = """
    --Dataset.class utils.datasets.ESC50 --Dataset.args {"fold":2,"progress":false}
    --Setup.batch_train 20 --Setup.batch_test 50
    --Model.args.spec_height 32 --Model.args.spec_width 32
    --Transforms.3.args.out_len 11025 --Transforms.4.args.out_len 11025
    --Transforms.6.args.out_len 11025 --Transforms[-1].args.out_len 11025
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Series:
    """Seconds by size, measured in alternating rounds.

    Attributes:
        title: name of the measured work.
        unit: unit of the sizes.
        seconds: seconds of each round, by size.
    """

    title: str
    unit: str
    seconds: dict[int, list[float]]

    @property
    def medians(self) -> dict[int, float]:
        """Seconds by size, median over the rounds."""
        return {size: statistics.median(values) for size, values in self.seconds.items()}

    @property
    def growth(self) -> float:
        """Growth of the cost from the smallest to the largest size, divided by the growth of the size.

        1 if the cost is proportional to the size; less if part of it is fixed.
        """
        smallest, largest = min(self.seconds), max(self.seconds)
        return (self.medians[largest] / self.medians[smallest]) / (largest / smallest)


def main(argv: list[str]) -> None:
    """Measure, and write the results and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="sizes a tenth as large, as a test")
    flags = parser.parse_args(argv)
    by = 10 if flags.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        series = [
            time_epochs(Path(folder), [max(20, size // by) for size in CLIPS], rounds=flags.rounds),
            time_evaluations(
                Path(folder),
                [size // by for size in CLASSES],
                clips=HELD_OUT_CLIPS // by,
                rounds=flags.rounds,
            ),
            time_retrieval([size // by for size in ITEMS], rounds=flags.rounds),
        ]
    content = {
        "environment": describe_environment(seed=0, device=torch.device("cpu")),
        "series": {one.title: {"seconds": one.seconds, "growth": one.growth} for one in series},
    }
    write_json(flags.picture.with_suffix(".json"), content)
    draw_series(series, flags.picture)
    for one in series:
        print(f"{one.title}: cost grows {one.growth:.2f} times as much as the number of {one.unit}")


def time_epochs(folder: Path, sizes: Iterable[int], *, rounds: int) -> Series:
    """Time epochs of training; sizes count the clips of the training split."""
    epochs: dict[int, Callable[[], object]] = {}
    for size in sizes:
        root = make_sounds(folder / f"clips-{size}", training=size, held_out=50, classes=10)
        blueprint, parts = build(root)
        watch = Stopwatch.of_training(blueprint, parts)
        watch.run(2)
        epochs[size] = functools.partial(watch.run, len(parts.training))
    return take_turns(epochs, title="an epoch of training", unit="clips", rounds=rounds)


def time_evaluations(folder: Path, sizes: Iterable[int], *, clips: int, rounds: int) -> Series:
    """Time evaluations of a fixed number of clips with more and more classes, including text embedding."""
    passes: dict[int, Callable[[], object]] = {}
    for size in sizes:
        root = make_sounds(folder / f"classes-{size}", training=20, held_out=clips, classes=size)
        passes[size] = functools.partial(evaluate, *build(root))
    return take_turns(passes, title=f"an evaluation of {clips} clips", unit="classes", rounds=rounds)


def time_retrieval(sizes: Iterable[int], *, rounds: int) -> Series:
    """Time the metrics of a fixed number of queries with more and more items; 1 % of the items match."""
    generator = torch.Generator().manual_seed(0)
    searches: dict[int, Callable[[], object]] = {}
    for size in sizes:
        counts = (QUERIES, size)
        queries, items = (
            F.normalize(torch.randn(count, DIMENSION, generator=generator), dim=1) for count in counts
        )
        positives = PositivePairs.by_label(*(torch.arange(count) % 100 for count in counts))
        searches[size] = functools.partial(retrieval_metrics, queries, items, positives)
    return take_turns(searches, title=f"retrieval metrics of {QUERIES} queries", unit="items", rounds=rounds)


def take_turns(work: Mapping[int, Callable[[], object]], *, title: str, unit: str, rounds: int) -> Series:
    """Do the work of all sizes once to warm up, then time it in `rounds` alternating rounds."""
    for one in work.values():
        one()
    seconds: dict[int, list[float]] = {size: [] for size in work}
    for _ in range(rounds):
        for size, one in work.items():
            start = time.perf_counter()
            one()
            seconds[size].append(time.perf_counter() - start)
    return Series(title=title, unit=unit, seconds=seconds)


def build(root: Path) -> tuple[Blueprint, Parts]:
    """Build the small AudioCLIP for the clips in `root`."""
    words = [*SMALL, "--Dataset.args.root", str(root), "--Dataset.args.cache", str(root.parent / "cache")]
    _, overrides = split_overrides(words)
    folder = ROOT / "protocols"
    blueprint = draw(load(folder / "quickstart.json", overrides, defaults=folder / "defaults.json"))
    torch.manual_seed(0)
    return blueprint, assemble(blueprint, seed=0)


def evaluate(blueprint: Blueprint, parts: Parts) -> None:
    """Evaluate the held-out split, without cached texts of earlier passes."""
    task = blueprint.task(**blueprint.protocol.task.args)
    splits: dict[str, Any] = {"train": parts.training.dataset, "test": parts.evaluation["test"].dataset}
    task.prepare(parts.model, **splits)
    Stopwatch.of_evaluation(blueprint, replace(parts, task=task)).run(len(parts.evaluation["test"]))


def make_sounds(root: Path, *, training: int, held_out: int, classes: int) -> Path:
    """Make noise in the layout of ESC-50; fold 2 is held out."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    random = np.random.default_rng(0)
    rows = ["filename,fold,target,category"]
    for number in range(training + held_out):
        # Every class has a clip in one of the folds.
        target, fold = number % classes, 1 if number < training else 2
        samples = random.integers(-9000, 9000, int(SECONDS * FILE_RATE), dtype=np.int16)
        soundfile.write(root / f"audio/{number}.wav", samples, FILE_RATE)
        rows.append(f"{number}.wav,{fold},{target},sound_{target}")
    (root / "meta/esc50.csv").write_text("\n".join(rows) + "\n")
    return root


def draw_series(series: Sequence[Series], path: Path) -> None:
    """Draw a log-log panel for each series, with a line for proportional cost."""
    figure = new_figure(4.2 * len(series), 3.8)
    for axes, one, colour in zip(figure.subplots(1, len(series)), series, COLOURS, strict=False):
        sizes, medians = list(one.seconds), one.medians
        unit = medians[sizes[0]]
        dress(axes, one.title, one.unit, f"time, relative to {sizes[0]:,} {one.unit}")
        for size, values in one.seconds.items():
            axes.plot([size] * len(values), [value / unit for value in values], ".", color=colour, alpha=0.4)
        measured = [medians[size] / unit for size in sizes]
        axes.plot(sizes, measured, "o-", color=colour, label="measured, median")
        in_proportion = [size / sizes[0] for size in sizes]
        axes.plot(sizes, in_proportion, "--", color=GREY, label="proportional")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.minorticks_off()
        axes.legend(frameon=False)
    save(figure, path)


if __name__ == "__main__":
    main(sys.argv[1:])
