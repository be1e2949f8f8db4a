"""Loaders of a data set, and the batches of an epoch."""

from __future__ import annotations

from typing import Any

import torch

from ignite_trainer.data.loader import Batch, FieldTransform, SplitLoader

CPU = torch.device("cpu")


def loader(dataset: Any, *steps: Any, **options: Any) -> SplitLoader:
    """Load a data set on the CPU in batches of 4, shuffled by seed 5, unless `options` say otherwise."""
    transforms = [
        step if isinstance(step, FieldTransform) else FieldTransform(apply=step, where=f"Transforms[{index}]")
        for index, step in enumerate(steps)
    ]
    settings: dict[str, Any] = {"batch_size": 4, "workers": 0, "shuffle": True, "drop_last": False, "seed": 5}
    return SplitLoader(dataset, transforms, **{"device": CPU, **settings, **options})


def epoch(batches: SplitLoader, number: int = 1, start: int = 0) -> list[Batch]:
    batches.set_epoch(number, start=start)
    return list(batches)
