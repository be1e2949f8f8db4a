"""Turns the results of first_light.sh into the tables of the README, as Markdown.

    python tests/gpu/summary.py FOLDER      # what first_light.tar.gz unpacks to

A cell whose step failed, timed out or was not run says so instead of giving an estimate. All values are
measured, except projections, which are marked as such.
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
OURS, BARE, PUBLISHED = "this protocol", "bare-backbone", "published-code"
PUBLISHED_IN = "bf16"  # the benchmark that also measures the published code
FOLDS, EPOCHS, TRAINING_CLIPS, ALL_CLIPS = 5, 50, 1600, 2000  # ESC-50, as published


class Results:
    """Results of the steps of first_light.sh.

    Args:
        folder: folder with steps.json and the output of each step, under its name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        steps = json.loads((folder / "steps.json").read_text())
        self.steps: dict[str, dict[str, Any]] = {step["name"]: step for step in steps}

    def cell(self, step: str, write: Callable[[], str]) -> str:
        """Return the text of a cell, or the reason why the step has no result."""
        if step not in self.steps:
            return "not run"
        try:
            return write()
        except (OSError, LookupError, ValueError, TypeError):
            status: str = self.steps[step]["status"]
            return "no result" if status == "ok" else status.partition(":")[0]

    def read(self, pattern: str) -> Any:
        """Read the last JSON file that matches a pattern.

        Raises:
            FileNotFoundError: No file matches.
        """
        paths = sorted(self._folder.glob(pattern))
        if not paths:
            raise FileNotFoundError(pattern)
        return json.loads(paths[-1].read_text())

    def log(self, step: str) -> str:
        """Read the output of a step."""
        return (self._folder / f"{step}.log").read_text()

    def benchmark(self, name: str) -> Any:
        """Read the benchmark.json of a precision."""
        return self.read(f"benchmark-{name}/*/*/benchmark.json")

    def samples_per_second(self, name: str, activity: str, of: str = OURS) -> float:
        """Return the clips per second, in "training" or "evaluation"."""
        return float(self.benchmark(name)["activities"][activity]["speeds"][of]["samples_per_second"])


def summarise(folder: Path) -> str:
    """Return the summary of a folder, as Markdown."""
    results = Results(folder)
    return "\n\n".join([_title(results), _speed(results), _rest(results), _steps(results)]) + "\n"


def projected_seconds(training: float, evaluation: float, *, skip_train: bool) -> float:
    """Project how long the five folds of ESC-50 take, not counting compilation and checkpoints.

    Args:
        training: clips per second in training.
        evaluation: clips per second in evaluation.
        skip_train: whether to evaluate only the held-out clips, as with -S, and not the training clips.
    """
    trained = EPOCHS * TRAINING_CLIPS
    evaluated = (ALL_CLIPS - TRAINING_CLIPS) * (1 + EPOCHS) + (0 if skip_train else trained)
    return FOLDS * (trained / training + evaluated / evaluation)


def _title(results: Results) -> str:
    def heading() -> str:
        machine = results.read("machine.json")
        named = {
            "driver": machine["driver"],
            "torch": machine["torch"],
            "CUDA": machine["cuda"],
            "cuDNN": machine["cudnn"],
            "Python": machine["python"],
        }
        listed = ", ".join(f"{name} {version}" for name, version in named.items() if version)
        versions = f"{listed}; {machine['date']}."
        if machine["driver"] is None:
            return f"## Dry run without a GPU\n\nNo value below is a measurement. {versions}"
        return f"## On one {machine['device']}\n\n{versions}"

    found = results.cell("machine", heading)
    head = found if found.startswith("##") else f"## On one device\n\nUnknown device: {found}."
    return f"{head} Clips of 5 s, random weights, 64 per step:\n`{_command(results)}`"


def _command(results: Results) -> str:
    """Return the command of the first row, without the folder of its results."""
    command = str(results.steps.get("benchmark-bf16", {}).get("command", "bash tests/gpu/first_light.sh OUT"))
    return re.sub(r" -M \S+", "", command)


def _speed(results: Results) -> str:
    head = [
        "",
        "training, clips/s",
        "speed ÷ backbone",
        "speed ÷ published code",
        "evaluation, clips/s",
        "speed ÷ backbone",
        "speed ÷ published code",
        "peak memory",
    ]
    rows = []
    for name, label in PRECISIONS.items():
        row = [label]
        for activity in ("training", "evaluation"):
            row += [_clips(results, name, activity), _of_bare(results, name, activity)]
            row.append(_of_published(results, name, activity))
        rows.append([*row, _memory(results, name)])
    table = _table(head, rows)
    return f"{table}\n\nThe published code, in fp32, was measured together with {PUBLISHED_IN}."


def _clips(results: Results, name: str, activity: str) -> str:
    return results.cell(f"benchmark-{name}", lambda: f"{results.samples_per_second(name, activity):,.0f}")


def _of_bare(results: Results, name: str, activity: str) -> str:
    """Return our speed divided by that of the bare backbone in the same round."""
    return results.cell(
        f"benchmark-{name}",
        lambda: f"{results.benchmark(name)['activities'][activity]['speeds'][BARE]['gain']['median']:.2f}",
    )


def _of_published(results: Results, name: str, activity: str) -> str:
    """Return our speed divided by that of the published code, which only one benchmark measured."""

    def ratio() -> str:
        ours = results.samples_per_second(name, activity)
        return f"{ours / results.samples_per_second(PUBLISHED_IN, activity, PUBLISHED):.1f}"

    problem = results.cell(f"benchmark-{PUBLISHED_IN}", lambda: "")  # empty if it ran: the denominator exists
    return problem or results.cell(f"benchmark-{name}", ratio)


def _memory(results: Results, name: str) -> str:
    return results.cell(
        f"benchmark-{name}",
        lambda: f"{results.benchmark(name)['peak_memory_bytes']['device'] / 2**30:.1f} GiB",
    )


def _rest(results: Results) -> str:
    rows = [
        ["GPU tests", results.cell("tests", lambda: _last_line(results.log("tests")))],
        ["agreement with the recorded values", results.cell("parity", lambda: _parity(results))],
        ["ESC-10, five folds from random weights", results.cell("esc10", lambda: _esc10(results))],
        ["an ESC-10 fold", results.cell("esc10", lambda: _fold(results))],
        *(_projection(results, name) for name in ("bf16", "bf16-compiled")),
        ["stopped and resumed", results.cell("resume", lambda: _resumed(results, "resume"))],
        [
            "the same, deterministic algorithms",
            results.cell("resume-deterministic", lambda: _resumed(results, "resume-deterministic")),
        ],
        ["killed and resumed", results.cell("kill", lambda: _killed(results))],
        ["a batch that is too large", results.cell("too-large", lambda: _too_large(results))],
        *([f"one epoch: {name[5:]}", step["status"]] for name, step in _modes(results)),
        ["memory of a step", results.cell("memory", lambda: _step_memory(results))],
    ]
    return _table(["", "measured"], rows)


def _parity(results: Results) -> str:
    content = results.read("parity.json")
    checks = [
        f"{check['name']} {check['value']:.2g}" + ("" if check["passed"] else f" (limit {check['limit']:g}!)")
        for check in content["checks"]
    ]
    return "; ".join([*checks, "passed" if content["passed"] else "FAILED"])


def _esc10(results: Results) -> str:
    summary = results.read("esc10/*/sweep_*/summary.json")
    [group] = summary["groups"]
    [accuracy] = group["metrics"].values()
    last, epochs = accuracy["last"], summary["runs"][0]["epochs"]
    spread = f"{100 * last['mean']:.1f} ± {100 * last['deviation']:.1f} %"
    return f"{spread} (n = {last['n']} folds, after {epochs} epochs; chance: 10 %)"


def _fold(results: Results) -> str:
    runs = sorted(results._folder.glob("esc10/*/sweep_*/fold-*/result.json"))
    seconds = [json.loads(path.read_text())["seconds"] for path in runs]
    epochs = json.loads(runs[0].read_text())["epochs"]
    mean = sum(seconds) / len(seconds)
    return f"{mean:.0f} s for {epochs} epochs, mean of {len(seconds)} folds, alongside other steps"


def _projection(results: Results, name: str) -> list[str]:
    def minutes() -> str:
        rates = [results.samples_per_second(name, activity) for activity in ("training", "evaluation")]
        whole, skipping = (projected_seconds(*rates, skip_train=skip) for skip in (False, True))
        return f"{whole / 60:.0f} min; with -S {skipping / 60:.0f} min"

    label = f"ESC-50, 5 folds of 50 epochs, projected, {PRECISIONS[name]}"
    return [label, results.cell(f"benchmark-{name}", minutes)]


def _resumed(results: Results, name: str) -> str:
    content = results.read(f"{name}.json")
    resumed, between = (content[key]["weights"] for key in ("resumed", "run_to_run"))
    text = "bit-identical" if resumed == 0.0 else f"weights differ by {resumed:.1g}"
    text += f" (two uninterrupted runs: {'bit-identical' if between == 0.0 else format(between, '.1g')})"
    if content["without_deterministic_algorithm"]:
        text += f"; not deterministic: {', '.join(content['without_deterministic_algorithm'])}"
    return text if content["passed"] else f"{text}: FAILED"


def _killed(results: Results) -> str:
    rows = [line for line in results.log("kill").splitlines() if "| all |" in line]
    return "; ".join(row.strip("| ").rpartition("| ")[2] for row in rows) or str(rows[0])


def _too_large(results: Results) -> str:
    content = results.read("too-large.json")
    text = f"exit status {content['exit_status']}, advice: `{content['advice']}`"
    return text + (", which works" if content["passed"] else ": FAILED")


def _modes(results: Results) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, step in results.steps.items() if name.startswith("mode-")]


def _step_memory(results: Results) -> str:
    rows = re.findall(r"^\| (all|\d+) \| ([\d,]+ MiB)", results.log("memory"), re.MULTILINE)
    return ", ".join(f"{size} at a time: {memory}" for size, memory in rows) or str(rows[0])


def _steps(results: Results) -> str:
    rows = [[name, f"{step['seconds']} s", step["status"]] for name, step in results.steps.items()]
    return _table(["step", "duration", ""], rows)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip("= ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def main(argv: Sequence[str]) -> None:
    """Print the summary of a folder, and write it to summary.md there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with steps.json and the output of the steps")
    folder = parser.parse_args(argv).folder
    text = summarise(folder)
    (folder / "summary.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
