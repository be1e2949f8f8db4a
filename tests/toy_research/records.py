"""Made-up results of runs, and the differences between real ones."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ignite_trainer.api.reporter import Best
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs.experiment import RunResult


def weights(name: str, content: str = "") -> WeightsFile:
    """Return a weights file with this name; `content` distinguishes files of the same name."""
    return WeightsFile(name=name, sha256=hashlib.sha256((name + content).encode()).hexdigest())


def run_record(
    *, fold: int | None = None, last: float | None = 0.5, best: float = 0.6, **changes: Any
) -> RunRecord:
    """Return the record of a toy run with one of five folds held out; without `fold` nothing is trained."""
    facts: dict[str, Any] = {
        "name": "Toy",
        "variant": "0123456789ab",
        "setting": "trained",
        "model": "TwoTowers",
        "weights": (),
        "dataset": "Tones",
        "samples": {"train": 20, "test": 10},
        "held_out": () if fold is None else (fold,),
        "folds": (1, 2, 3, 4, 5),
        "seed": 7,
        "epochs": 0 if fold is None else 9,
        "metric": "Acc.",
        "share": True,
        "last": {"Acc.": last},
        "best": () if fold is None else (Best(label="Acc.", value=best, epoch=4, checkpoint=None),),
        "evaluations": {},
        "published": (),
        "checkpoint": weights("last.pt", str(fold)),
        "revision": "abc123",
        "seconds": 1.0,
        "finished": "2024-01-02T12:00:00+00:00",
    }
    return RunRecord(**{**facts, **changes})


def only_run(root: Path) -> Path:
    """Return the folder of the only run of the toy protocol."""
    (folder,) = (root / "Toy").iterdir()
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    """Read the log of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_state(result: RunResult) -> dict[str, Any]:
    """Read the state after the last epoch of a run."""
    assert result.end.last_checkpoint is not None
    return torch.load(result.end.last_checkpoint, weights_only=True)  # type: ignore[no-any-return]


# Keys that depend on time, place or source, and hashes of files that do.
TIMES = ("time", "seconds", "samples_per_second", "last_checkpoint", "checkpoint", "revision")


def differences(first: Path, second: Path) -> list[str]:
    """List the differences between two finished runs, bit by bit, except times."""
    found = []
    runs = (first, second)
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in runs]
    if names[0] != names[1]:
        found.append(f"files {names[0]} and {names[1]}")
    for name in set(names[0]) & set(names[1]):
        if name.endswith(".pt"):
            ours, theirs = (torch.load(run / "checkpoints" / name, weights_only=True) for run in runs)
            found += [f"{name}: {key}" for key in _unequal(ours, theirs)]
    for reader, name in (
        (_read_log, "metrics.jsonl"),
        (_read_csv, "predictions.csv"),
        (_read_json, "result.json"),
    ):
        if reader(first / name) != reader(second / name):
            found.append(name)
    return found


def _unequal(ours: Any, theirs: Any, key: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [
            found
            for name in ours
            if name != "elapsed"
            for found in _unequal(ours[name], theirs[name], f"{key}.{name}")
        ]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [
            found
            for index, pair in enumerate(zip(ours, theirs, strict=True))
            for found in _unequal(*pair, f"{key}.{index}")
        ]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        same = ours == theirs
    return [] if same else [key]


def _read_log(path: Path) -> Any:
    return _timeless(events(path.parent))


def _read_json(path: Path) -> Any:
    return _timeless({**json.loads(path.read_text()), "finished": None})


def _read_csv(path: Path) -> Any:
    with path.open() as file:
        return list(csv.reader(file))


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMES}
    return [_timeless(item) for item in content] if isinstance(content, list) else content
