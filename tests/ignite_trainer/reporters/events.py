"""Events of made-up runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite_trainer.api.reporter import Evaluated, Iteration, Split


def evaluated(
    epoch: int = 1, split: Split = "test", metrics: Mapping[str, float] | None = None, **more: Any
) -> Evaluated:
    """Make an evaluation of a run with ten steps per epoch, by default without metrics."""
    facts: dict[str, Any] = {"iteration": 10 * epoch, "seconds": 1.0, **more}
    return Evaluated(epoch=epoch, split=split, metrics=metrics or {}, **facts)


def trained(iteration: int, loss: float = 1.0, **metrics: float) -> Iteration:
    """Make a progress event of a run with ten steps per epoch."""
    return Iteration(
        epoch=1 + (iteration - 1) // 10,
        iteration=iteration,
        loss=loss,
        learning_rates=(0.1,),
        samples_per_second=1.0,
        metrics=metrics,
    )
