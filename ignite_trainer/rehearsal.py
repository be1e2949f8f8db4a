"""What a run takes beside its steps - curves drawn, weights saved, a report - by one of a few samples."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ignite_trainer.assembly import Parts, with_other_batches
from ignite_trainer.blueprint import Blueprint
from ignite_trainer.instantiate import build
from ignite_trainer.memory import freed_memory
from ignite_trainer.one_run import Run
from ignite_trainer.precision import float32_products
from ignite_trainer.reporters import JsonLines, LearningCurve, Report, Reporter, Together
from ignite_trainer.reporters.reporter import Evaluated, RunEnd
from ignite_trainer.signals import StopRequest

# Reporters that write into the folder of the run alone: others print, or tell a service of a run.
_REHEARSED = (JsonLines, LearningCurve, Report)


class Overhead(NamedTuple):
    """Seconds that a run takes beside its steps: after each epoch, and once."""

    per_epoch: float
    once: float


def rehearse(
    blueprint: Blueprint, parts: Parts, *, samples: int, seed: int, training_step: float
) -> Overhead:
    """Carry out a run of one epoch with a few samples, in a temporary folder.

    Args:
        blueprint: of the run; its `Evaluations` do not take part.
        parts: whose model and optimizer are not the same afterwards.
        samples: of each split.
        seed: of the run.
        training_step: seconds that a step of so many samples takes; 0 where nothing is trained.

    Raises:
        ProtocolError: the parts do not work with so few samples.
        RunFailed: neither does the run, or its files cannot be written.
    """
    setup = blueprint.protocol.setup
    changes = {
        "seed": seed,
        "epochs": min(setup.epochs, 1),
        "batch_train": samples,
        "batch_test": samples,
        "workers_train": 0,
        "workers_test": 0,
    }
    protocol = blueprint.protocol.model_copy(
        update={"setup": setup.model_copy(update=changes), "evaluations": {}}
    )
    small = replace(blueprint, protocol=protocol, evaluations={})
    made = [
        build(kind, args, where="Reporters")
        for kind, args in blueprint.reporters
        if issubclass(kind, _REHEARSED)
    ]
    clock = _Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(with_other_batches(small, parts, seed=seed, at_most=samples)) as few,
        contextlib.closing(Together([clock, *made])) as reporters,
        float32_products(setup.precision),
        freed_memory(kept=setup.keep_memory),
    ):
        start = time.monotonic()
        Run(small, few, Path(folder), reporters, StopRequest()).carry_out(seed, resume=False)
        return clock.overhead(time.monotonic() - start - training_step)


class _Clock(Reporter):
    """Notes when a run had evaluated, and when it ended; it is told before other reporters are."""

    def __init__(self) -> None:
        self._passes: list[tuple[float, Evaluated]] = []
        self._ended = 0.0

    def on_evaluation(self, result: Evaluated) -> None:
        """Note the time after a pass."""
        self._passes.append((time.monotonic(), result))

    def on_end(self, _: RunEnd) -> None:
        """Note the time after the last epoch."""
        self._ended = time.monotonic()

    def overhead(self, seconds: float) -> Overhead:
        """Share what a run took beside its training between its one epoch and the rest."""
        after_epoch = [(at, each.seconds) for at, each in self._passes if each.epoch]
        per_epoch = 0.0
        if after_epoch:
            first, *others = after_epoch
            per_epoch = self._ended - first[0] - sum(taken for _, taken in others)
        once = seconds - per_epoch - sum(each.seconds for _, each in self._passes)
        return Overhead(per_epoch=max(0.0, per_epoch), once=max(0.0, once))
