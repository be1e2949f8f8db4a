"""What a run may have reached, without one."""

from __future__ import annotations

import hashlib
from typing import Any

from ignite_trainer.api.reporter import Best
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.results.record import RunRecord


def weights(name: str, content: str = "") -> WeightsFile:
    """A file of weights of this name; `content` tells it from others of the same name."""
    return WeightsFile(name=name, sha256=hashlib.sha256((name + content).encode()).hexdigest())


def run_record(
    *, fold: int | None = None, last: float | None = 0.5, best: float = 0.6, **changes: Any
) -> RunRecord:
    """The record of a toy run; `fold` is the one held out of five, without it nothing is trained."""
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
