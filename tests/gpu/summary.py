"""Turn the figures of first_light.sh into the tables of the README, as Markdown.

    python tests/gpu/summary.py FOLDER      # what first_light.tar.gz unpacks to

A cell whose step failed, ran out of time or was left out says so; no figure is estimated in its place. Only
projections are not measured, and are called that.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PRECISIONS = {"bf16": "bf16", "bf16-compiled": "bf16, compiled", "fp16": "fp16", "fp32": "fp32"}
OURS, BARE, PUBLISHED = "this protocol", "bare-backbone", "published-way"
PUBLISHED_IN = "bf16"  # the benchmark that also times the published way
FOLDS, EPOCHS, TRAINING_CLIPS, ALL_CLIPS = 5, 50, 1600, 2000  # ESC-50, as published


class Figures:
    """Results of the steps of first_light.sh.

    Args:
        folder: with steps.json, and what each step wrote under its name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        steps = json.loads((folder / "steps.json").read_text())
        self.steps: dict[str, dict[str, Any]] = {step["name"]: step for step in steps}

    def cell(self, step: str, write: Callable[[], str]) -> str:
        """Write the text of a cell from what a step left, or say why there is no such text."""
        if step not in self.steps:
            return "not run"
        try:
            return write()
        except (OSError, LookupError, ValueError, TypeError):
            status: str = self.steps[step]["status"]
            return "no figure" if status == "ok" else status.partition(":")[0]

    def read(self, pattern: str) -> Any:
        """Read the one JSON file of a pattern.

        Raises:
            FileNotFoundError: there is none.
        """
        paths = sorted(self._folder.glob(pattern))
        if not paths:
            raise FileNotFoundError(pattern)
        return json.loads(paths[-1].read_text())

    def log(self, step: str) -> str:
        """Read the output of a step."""
        return (self._folder / f"{step}.log").read_text()

    def benchmark(self, name: str) -> Any:
        """The benchmark.json of one precision."""
        return self.read(f"benchmark-{name}/*/*/benchmark.json")

    def samples_per_second(self, name: str, activity: str, of: str = OURS) -> float:
        """Clips in a second, in "training" or "evaluation"."""
        return float(self.benchmark(name)["activities"][activity]["speeds"][of]["samples_per_second"])


def summarise(folder: Path) -> str:
    """Write the whole summary of a folder."""
    figures = Figures(folder)
    return "\n\n".join([_title(figures), _speed(figures), _rest(figures), _steps(figures)]) + "\n"


def projected_seconds(training: float, evaluation: float, *, skip_train: bool) -> float:
    """Project how long ESC-50's five folds take, without what is done once and without states.

    Args:
        training: clips in a second.
        evaluation: clips in a second.
        skip_train: evaluate the held-out clips alone, as with -S; else those trained on, too.
    """
    trained = EPOCHS * TRAINING_CLIPS
    evaluated = (ALL_CLIPS - TRAINING_CLIPS) * (1 + EPOCHS) + (0 if skip_train else trained)
    return FOLDS * (trained / training + evaluated / evaluation)


def _title(figures: Figures) -> str:
    def versions() -> str:
        machine = figures.read("machine.json")
        named = {
            "driver": machine["driver"],
            "torch": machine["torch"],
            "CUDA": machine["cuda"],
            "cuDNN": machine["cudnn"],
            "Python": machine["python"],
        }
        listed = ", ".join(f"{name} {version}" for name, version in named.items() if version)
        said = f"{listed}; {machine['date']}."
        if machine["driver"] is None:
            return f"## Rehearsed without a GPU\n\nNo figure below is a measurement. {said}"
        return f"## On one {machine['device']}\n\n{said}"

    told = figures.cell("machine", versions)
    head = told if told.startswith("##") else f"## On one device\n\nWhich one is not known: {told}."
    return f"{head} Clips of 5 s, random weights, 64 a step:\n`{_command(figures)}`"


def _command(figures: Figures) -> str:
    """The command of the first row, as one would type it."""
    command = str(figures.steps.get("benchmark-bf16", {}).get("command", "bash tests/gpu/first_light.sh OUT"))
    return re.sub(r" -M \S+", "", command)


def _speed(figures: Figures) -> str:
    head = [
        "",
        "training, clips/s",
        "by the bare backbone",
        "by the published way",
        "evaluation, clips/s",
        "by the bare backbone",
        "by the published way",
        "peak memory",
    ]
    rows = []
    for name, label in PRECISIONS.items():
        row = [label]
        for activity in ("training", "evaluation"):
            row += [_clips(figures, name, activity), _of_bare(figures, name, activity)]
            row.append(_of_published(figures, name, activity))
        rows.append([*row, _memory(figures, name)])
    table = _table(head, rows)
    return f"{table}\n\nThe published way, in fp32, was timed beside {PUBLISHED_IN}."


def _clips(figures: Figures, name: str, activity: str) -> str:
    return figures.cell(f"benchmark-{name}", lambda: f"{figures.samples_per_second(name, activity):,.0f}")


def _of_bare(figures: Figures, name: str, activity: str) -> str:
    """Our speed as a share of the bare backbone's, paired by rounds."""
    return figures.cell(
        f"benchmark-{name}",
        lambda: f"{figures.benchmark(name)['activities'][activity]['speeds'][BARE]['gain']['median']:.2f}",
    )


def _of_published(figures: Figures, name: str, activity: str) -> str:
    """Our speed divided by that of the published way, which only one of the benchmarks timed."""

    def times() -> str:
        ours = figures.samples_per_second(name, activity)
        return f"{ours / figures.samples_per_second(PUBLISHED_IN, activity, PUBLISHED):.1f}"

    told = figures.cell(f"benchmark-{name}", times)
    measured = figures.cell(f"benchmark-{PUBLISHED_IN}", lambda: "")  # the other half of the ratio
    return measured or told


def _memory(figures: Figures, name: str) -> str:
    return figures.cell(
        f"benchmark-{name}",
        lambda: f"{figures.benchmark(name)['peak_memory_bytes']['device'] / 2**30:.1f} GiB",
    )


def _rest(figures: Figures) -> str:
    rows = [
        ["GPU tests", figures.cell("tests", lambda: _last_line(figures.log("tests")))],
        ["parity with the recorded figures", figures.cell("parity", lambda: _parity(figures))],
        ["ESC-10, five folds from random weights", figures.cell("esc10", lambda: _esc10(figures))],
        ["an ESC-10 fold", figures.cell("esc10", lambda: _fold(figures))],
        *(_projection(figures, name) for name in ("bf16", "bf16-compiled")),
        ["stopped and resumed", figures.cell("resume", lambda: _resumed(figures, "resume"))],
        [
            "the same, deterministic algorithms",
            figures.cell("resume-deterministic", lambda: _resumed(figures, "resume-deterministic")),
        ],
        ["killed and resumed", figures.cell("kill", lambda: _killed(figures))],
        ["a batch that is too large", figures.cell("too-large", lambda: _too_large(figures))],
        *([f"one epoch: {name[5:]}", step["status"]] for name, step in _modes(figures)),
        ["memory of a step", figures.cell("memory", lambda: _step_memory(figures))],
    ]
    return _table(["", "measured"], rows)


def _parity(figures: Figures) -> str:
    content = figures.read("parity.json")
    said = [
        f"{check['name']} {check['value']:.2g}" + ("" if check["passed"] else f" (limit {check['limit']:g}!)")
        for check in content["checks"]
    ]
    return "; ".join([*said, "passed" if content["passed"] else "FAILED"])


def _esc10(figures: Figures) -> str:
    summary = figures.read("esc10/*/sweep_*/summary.json")
    [group] = summary["groups"]
    [accuracy] = group["metrics"].values()
    last, epochs = accuracy["last"], summary["runs"][0]["epochs"]
    spread = f"{100 * last['mean']:.1f} ± {100 * last['deviation']:.1f} %"
    return f"{spread} (n = {last['n']} folds, after {epochs} epochs; chance: 10 %)"


def _fold(figures: Figures) -> str:
    results = sorted(figures._folder.glob("esc10/*/sweep_*/fold-*/result.json"))
    seconds = [json.loads(path.read_text())["seconds"] for path in results]
    epochs = json.loads(results[0].read_text())["epochs"]
    return f"{sum(seconds) / len(seconds):.0f} s for {epochs} epochs, mean of {len(seconds)}, not run alone"


def _projection(figures: Figures, name: str) -> list[str]:
    def minutes() -> str:
        rates = [figures.samples_per_second(name, activity) for activity in ("training", "evaluation")]
        whole, skipping = (projected_seconds(*rates, skip_train=skip) for skip in (False, True))
        return f"{whole / 60:.0f} min; with -S {skipping / 60:.0f} min"

    label = f"ESC-50, 5 folds of 50 epochs, projected, {PRECISIONS[name]}"
    return [label, figures.cell(f"benchmark-{name}", minutes)]


def _resumed(figures: Figures, name: str) -> str:
    content = figures.read(f"{name}.json")
    resumed, between = (content[key]["weights"] for key in ("resumed", "run_to_run"))
    said = "bit-equal" if resumed == 0.0 else f"weights differ by {resumed:.1g}"
    said += f" (two undisturbed runs: {'bit-equal' if between == 0.0 else format(between, '.1g')})"
    if content["without_deterministic_algorithm"]:
        said += f"; no order in {', '.join(content['without_deterministic_algorithm'])}"
    return said if content["passed"] else f"{said}: FAILED"


def _killed(figures: Figures) -> str:
    rows = [line for line in figures.log("kill").splitlines() if "| all |" in line]
    return "; ".join(row.strip("| ").rpartition("| ")[2] for row in rows) or str(rows[0])


def _too_large(figures: Figures) -> str:
    content = figures.read("too-large.json")
    said = f"exit status {content['exit_status']}, advice: `{content['advice']}`"
    return said + (", which ends well" if content["passed"] else ": FAILED")


def _modes(figures: Figures) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, step in figures.steps.items() if name.startswith("mode-")]


def _step_memory(figures: Figures) -> str:
    rows = re.findall(r"^\| (all|\d+) \| ([\d,]+ MiB)", figures.log("memory"), re.MULTILINE)
    return ", ".join(f"{size} at a time: {memory}" for size, memory in rows) or str(rows[0])


def _steps(figures: Figures) -> str:
    rows = [[name, f"{step['seconds']} s", step["status"]] for name, step in figures.steps.items()]
    return _table(["step", "took", ""], rows)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip("= ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def main(argv: Sequence[str]) -> None:
    """Print the summary of a folder, and write it into summary.md there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with steps.json and what the steps wrote")
    folder = parser.parse_args(argv).folder
    text = summarise(folder)
    (folder / "summary.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
