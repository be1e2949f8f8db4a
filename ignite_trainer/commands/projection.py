"""Projects how long an experiment takes at measured speeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ignite_trainer.api.reporter import Split
from ignite_trainer.protocol.sections import Protocol


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Duration of a protocol, without what happens once (preparing data, compiling), checkpoints and reports.

    Attributes:
        epochs: of a run.
        runs: one for each combination of the values in `Sweep`.
        seconds_per_run: an evaluation, then in each epoch training and evaluations.
        seconds: all runs, one after the other.
    """

    epochs: int
    runs: int
    seconds_per_run: float
    seconds: float


def project(
    protocol: Protocol, sizes: Mapping[Split, int], samples_per_second: Mapping[str, float]
) -> Projection:
    """Project the duration of a protocol.

    Args:
        protocol: all runs of its `Sweep` are taken to be as large as this one.
        sizes: samples of each split.
        samples_per_second: in "evaluation", and in "training" where there are epochs.
    """
    setup = protocol.setup
    evaluated = sizes["test"] * (1 + setup.epochs)
    if not setup.skip_train_evaluation:
        evaluated += sizes["train"] * setup.epochs
    seconds = evaluated / samples_per_second["evaluation"]
    if setup.epochs:
        # An incomplete last batch is left out.
        trained = setup.epochs * (sizes["train"] - sizes["train"] % setup.batch_train)
        seconds += trained / samples_per_second["training"]
    runs = math.prod(map(len, protocol.sweep.values()))
    return Projection(epochs=setup.epochs, runs=runs, seconds_per_run=seconds, seconds=runs * seconds)
