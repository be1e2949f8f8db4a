"""What a run takes beside its steps - curves drawn, weights saved, a report - by one of a few samples."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ignite_trainer import results
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
    """Time and memory that a run takes besides its steps.

    Attributes:
        per_epoch: seconds after each epoch.
        once: seconds before the first epoch and after the last, including the writing of the last state.
        writing: seconds that a state takes to write, while the next epoch runs.
        state_bytes: size of a state, which stays in memory until it is written.
    """

    per_epoch: float
    once: float
    writing: float
    state_bytes: int


def rehearse(blueprint: Blueprint, parts: Parts, *, samples: int, seed: int) -> Overhead:
    """Carry out a run of one epoch, of one batch in training and in each pass, in a temporary folder.

    The folder is where results would be, if something can be written there: it is their disk that counts.
    `Evaluations` do not take part.

    Args:
        blueprint: of the run.
        parts: whose model and optimizer are not the same afterwards.
        samples: of a batch, if those of the protocol are not smaller.
        seed: of the run.

    Raises:
        ProtocolError: the parts do not work with so few samples.
        Exception: whatever ends a run.
    """
    protocol = blueprint.protocol
    setup = protocol.setup
    changes = {
        "seed": seed,
        "epochs": min(setup.epochs, 1),
        "batch_train": min(samples, setup.batch_train),
        "batch_test": min(samples, setup.batch_test or setup.batch_train),
        "workers_train": 0,
        "workers_test": 0,
    }
    protocol = protocol.model_copy(update={"setup": setup.model_copy(update=changes), "evaluations": {}})
    small = replace(blueprint, protocol=protocol, evaluations={})
    made = [build(kind, args, where="Reporters") for kind, args in blueprint.reporters if kind in _REHEARSED]
    first, last = _Clock(), _Clock()
    with (
        tempfile.TemporaryDirectory(prefix="explained-", dir=_writable(results.root_of(protocol))) as folder,
        contextlib.closing(with_other_batches(small, parts, seed=seed, limit=1)) as few,
        contextlib.closing(Together([first, *made, last])) as reporters,
        float32_products(setup.precision),
        freed_memory(kept=setup.keep_memory),
    ):
        start = time.monotonic()
        run = Run(small, replace(few, evaluations={}), Path(folder), reporters, StopRequest())
        first.before_each = run.wait_for_checkpoints  # a real epoch is longer than writing untrained weights
        run.carry_out(seed, resume=False)
        seconds = time.monotonic() - start
        files = Path(folder).glob("checkpoints/*.pt")
        state_bytes = sum(path.stat().st_size for path in files if not path.name.startswith("best_"))
        return _overhead(seconds, first, last, writing=run.seconds_of_writing, state_bytes=state_bytes)


class _Clock(Reporter):
    """Notes when it is told that a pass has ended, how long that took, and when the run has ended."""

    def __init__(self) -> None:
        self.passes: list[tuple[float, float]] = []
        self.ended = 0.0
        self.before_each: Callable[[], None] = lambda: None

    def on_evaluation(self, result: Evaluated) -> None:
        """Note the time after a pass."""
        self.before_each()
        self.passes.append((time.monotonic(), result.seconds))

    def on_end(self, _: RunEnd) -> None:
        """Note the time after the last epoch."""
        self.ended = time.monotonic()


def _overhead(seconds: float, first: _Clock, last: _Clock, *, writing: float, state_bytes: int) -> Overhead:
    """Share what a run took beside its passes and its training between its one epoch and the rest.

    ```text
    start | pass | reporters | training | pass | reporters, pass, reporters, copy of state | writing | report
                 ^ first     ^ last            ^ first                                               ^ ended
    ```

    Args:
        seconds: of the whole run.
        first: was told before the other reporters.
        last: after them.
        writing: seconds that the state was written, while nothing else was done.
        state_bytes: its size.
    """
    per_epoch = training = 0.0
    if len(first.passes) > 1:
        _, (after_training, taken), *others = first.passes
        training = after_training - taken - last.passes[0][0]
        per_epoch = first.ended - after_training - sum(each for _, each in others) - writing
    once = seconds - training - per_epoch - sum(each for _, each in first.passes)
    return Overhead(max(0.0, per_epoch), max(0.0, once), writing, state_bytes)


def _writable(root: Path) -> Path | None:
    """The folder of results, or the nearest above it that is there; None if nothing can be written there."""
    nearest = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    return nearest if os.access(nearest, os.W_OK) else None
