"""The protocol of a toy experiment, with functions and commands that run it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ignite_trainer.commands import cli
from ignite_trainer.commands.sweeps.sweep import Plan, make_plan, run_sweep
from ignite_trainer.commands.sweeps.sweep_summary import Summary
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.experiment import RunResult, run

ROOT = Path(__file__).parents[2]
TRUSTED = ("toy_research",)

_TOY: dict[str, Any] = {
    "Setup": {
        "name": "Toy",
        "batch_train": 8,
        "epochs": 2,
        "log_interval": 1,
        "saved_models_path": "(set by toy)",
        "seed": 7,
    },
    "Model": {"class": "toy_research.network.TwoTowers", "args": {}},
    "Task": {"class": "toy_research.learning.Matching", "args": {}},
    "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.9}},
    "Dataset": {"class": "toy_research.signals.Tones", "args": {"fold": 1}},
    "Transforms": [
        {"class": "toy_research.augment.GlobalHiss", "test": False},
        {"class": "toy_research.augment.Hiss", "args": {"level": 0.05}, "test": False},
        {"class": "toy_research.augment.Fit", "args": {"length": 16}, "test": False},
        {"class": "toy_research.augment.Fit", "args": {"length": 16, "train": False}, "train": False},
    ],
    "Metrics": {
        "Performance": {
            "lines": [{"line_label": "Val. Acc.", "class": "ignite.metrics.Accuracy", "is_checkpoint": True}]
        }
    },
    "Reporters": [
        {"class": "toy_research.watching.Notebook"},
        {"class": "ignite_trainer.reporters.JsonLines"},
    ],
}


def toy(root: Path, **changes: Any) -> dict[str, Any]:
    """Return the toy protocol; `Setup__epochs=3` replaces a key, `Scheduler=...` an entire section."""
    raw = copy.deepcopy(_TOY)
    raw["Setup"]["saved_models_path"] = str(root)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = raw
        for section in sections:
            place = place[section]
        place[key] = value
    return raw


def draw_toy(root: Path, **changes: Any) -> Blueprint:
    """Make the blueprint of the toy protocol."""
    return draw(validate(toy(root, **changes)), trusted=TRUSTED)


def run_toy(root: Path, **changes: Any) -> RunResult:
    """Run the toy protocol."""
    return run(draw_toy(root, **changes))


def plan_toy(root: Path, sweep: dict[str, list[Any]], **changes: Any) -> Plan:
    """Plan a sweep of the toy protocol."""
    return make_plan(validate(toy(root, Sweep=sweep, **changes)), trusted=TRUSTED)


def sweep_toy(root: Path, sweep: dict[str, list[Any]], **changes: Any) -> Summary:
    """Run a sweep of the toy protocol."""
    return run_sweep(plan_toy(root, sweep, **changes))


class Done(NamedTuple):
    """Exit status of a command, and what it printed."""

    status: int
    out: str
    err: str


class Command:
    """Writes toy protocols into a folder, and runs commands that trust the toy package.

    Attributes:
        folder: folder of the protocols.
        results: root of their results.
        defaults: file with default sections, in a folder of its own; empty at first.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.results = folder / "results"
        self.defaults = folder / "defaults" / "defaults.json"
        self.defaults.parent.mkdir()
        self.defaults.write_text("{}")

    def write(self, name: str = "toy.json", **changes: Any) -> Path:
        """Write the toy protocol with changes, and return its path."""
        path = self.folder / name
        path.write_text(json.dumps(toy(self.results, **changes), ensure_ascii=False), encoding="utf-8")
        return path

    def __call__(self, *argv: str | Path, trust: str = "toy_research") -> Done:
        words = [*map(str, argv), "--trust", trust]
        try:
            status = cli.main(words, defaults=self.defaults)
        except SystemExit as end:  # raised by argparse
            assert isinstance(end.code, int)
            status = end.code
        return Done(status, *self._capsys.readouterr())

    def be_killed(self, *words: str) -> None:
        """Run the command in a process of its own, which something in the protocol kills."""
        killed = subprocess.run(
            [sys.executable, "main.py", *words, "--trust", "toy_research"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -9, killed.stderr
