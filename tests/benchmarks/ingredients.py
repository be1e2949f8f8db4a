"""Compares the published recipe, a modern one, and the modern one without each of its ingredients.

Run by hand; each run of 12 epochs takes about 4 minutes on one core:

    python tests/benchmarks/ingredients.py results/ingredients --root data/ESC-50 --jobs 2 \
        --picture assets/ingredients.png

The quickstart's small network is trained from random weights on the folds of ESC-10, with AdamW and the same
number of steps in every run; other arguments are passed on to every run. Finished runs are not repeated, and
stopped runs continue, so a stopped command can be repeated. The table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ignite_trainer.api import file_names  # noqa: E402
from ignite_trainer.reporters.drawing import COLOURS, GREY, dress, new_figure, save  # noqa: E402

PUBLISHED = "published recipe with AdamW"
MODERN = "modern recipe"

WITHOUT = {
    "time roll": "--Transforms.1.train false",
    "gain": "--Transforms.2.train false",
    "mixup": "--Transforms.8.train false",
    "spectrogram masks": "--Task.args.spectrogram_masks null",
    "label smoothing": "--Task.args.label_smoothing 0",
    "layer-wise decay": "--Parameters.1.depth_decay null",
    "exemption from weight decay": "--Parameters.1.weight_decay_of all",
    "gradient clipping": "--Parameters.1.max_gradient_norm null",
    "warm-up and cosine": """--Scheduler '{"class": "torch.optim.lr_scheduler.ExponentialLR",
        "args": {"gamma": 0.85}}'""",
    "weight averaging": "--Setup.swa null",
}
"""Overrides of the modern protocol that remove one ingredient."""


class Variant(NamedTuple):
    """A recipe: the stem of its protocol, and overrides."""

    protocol: str
    words: str = ""


VARIANTS = {
    PUBLISHED: Variant("small-esc10"),
    MODERN: Variant("small-esc10-modern"),
    **{f"without {name}": Variant("small-esc10-modern", words) for name, words in WITHOUT.items()},
}

Accuracies = Mapping[str, Mapping[tuple[int, int], float]]
"""Accuracy after the last epoch in per cent, by variant, and by seed and fold."""


def train(folder: Path, variant: Variant, words: Sequence[str]) -> None:
    """Train and evaluate once in a process of its own, and delete the checkpoints.

    Raises:
        CalledProcessError: The process failed; `log.txt` in the folder says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "main.py",
        "-c",
        f"protocols/{variant.protocol}.json",
        "--Setup.resume",
        "auto",
    ]
    command += ["-M", str(folder), *words, *shlex.split(variant.words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    for checkpoints in folder.glob(f"*/*/{file_names.CHECKPOINTS}"):
        shutil.rmtree(checkpoints)  # 1.4 GB a run


def accuracy(folder: Path) -> float | None:
    """Return the accuracy of a run after its last epoch, in per cent; None if it has not finished."""
    for result in folder.glob(f"*/*/{file_names.RESULT}"):
        return round(100.0 * float(json.loads(result.read_text())["last"]["Val. Acc."]), 4)
    return None


def by_fold(accuracies: Mapping[tuple[int, int], float], folds: Sequence[int]) -> list[float]:
    """Average over the seeds of each fold."""
    return [statistics.mean(value for (_, of), value in accuracies.items() if of == fold) for fold in folds]


def table(accuracies: Accuracies, folds: Sequence[int]) -> str:
    """Lay out accuracies, and differences from the modern recipe in the same fold, as a Markdown table."""
    lines = [
        f"| | {' | '.join(f'fold {fold}' for fold in folds)} | mean ± sd | minus the modern recipe |",
        "|---" * (len(folds) + 3) + "|",
    ]
    modern = by_fold(accuracies[MODERN], folds)
    for name, values in accuracies.items():
        row = by_fold(values, folds)
        differences = [value - other for value, other in zip(row, modern, strict=True)]
        less = "" if name == MODERN else spread(differences, sign="+")
        lines.append(f"| {name} | {' | '.join(f'{v:.1f}' for v in row)} | {spread(row)} % | {less} |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, sign: str = "") -> str:
    """Format mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


def draw(accuracies: Accuracies, folds: Sequence[int], path: Path) -> None:
    """Draw each fold as a dot, and the mean as a line."""
    figure = new_figure(7.6, 0.9 + 0.36 * len(accuracies))
    axes = figure.subplots()
    for row, (name, values) in enumerate(accuracies.items()):
        heard = by_fold(values, folds)
        colour = COLOURS[0] if name == MODERN else COLOURS[1] if name == PUBLISHED else GREY
        axes.scatter(heard, [row] * len(heard), s=22, color=colour, alpha=0.5, lw=0)
        axes.vlines(statistics.mean(heard), row - 0.32, row + 0.32, color=colour, lw=2.5)
    axes.axvline(
        statistics.mean(by_fold(accuracies[MODERN], folds)), color=COLOURS[0], lw=0.8, ls="--", zorder=0
    )
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.invert_yaxis()
    dress(axes, "", "accuracy on ESC-10, per cent: folds (dots) and their mean (line)", "")
    save(figure, path)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--root", type=Path, required=True, help="folder with the layout of ESC-50")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each has one thread")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    options, others = parser.parse_known_args()

    folders: dict[tuple[int, int, str], Path] = {
        (seed, fold, name): options.folder / f"{name.replace(' ', '-')}/seed-{seed}/fold-{fold}"
        for seed in options.seeds
        for fold in options.folds
        for name in VARIANTS
    }

    def run(key: tuple[int, int, str]) -> None:
        seed, fold, name = key
        words = ["--Dataset.args.root", str(options.root.resolve()), "--Dataset.args.fold", str(fold)]
        train(folders[key].resolve(), VARIANTS[name], [*words, "-R", str(seed), *others])

    missing = [key for key, folder in folders.items() if accuracy(folder) is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(tqdm(pool.map(run, missing), total=len(missing), unit="run"))
    accuracies = {
        name: {
            (seed, fold): value
            for (seed, fold, of), folder in folders.items()
            if of == name and (value := accuracy(folder)) is not None
        }
        for name in VARIANTS
    }
    print(table(accuracies, options.folds))
    if options.picture:
        draw(accuracies, options.folds, options.picture)


if __name__ == "__main__":
    main()
