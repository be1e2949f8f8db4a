"""Steps of a run carried out as many at a time as one likes, and how long they take.

What is timed is the step of the run itself: the engine with its loader, metrics and augmentation, stopped
after some iterations and taken up again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from ignite.engine import Engine, Events
from torch.profiler import record_function

from ignite_trainer import metrics
from ignite_trainer.assembly import Parts
from ignite_trainer.blueprint import Blueprint
from ignite_trainer.data import SplitLoader
from ignite_trainer.engines import RUNNING_LOSS, make_evaluator, make_trainer
from ignite_trainer.memory import freed_memory
from ignite_trainer.phases import phase
from ignite_trainer.precision import float32_products
from ignite_trainer.protocol import Setup

_WITHOUT_END = 2**31
_READY_BATCHES = 2  # of each loader process, torch's default


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Some steps on end, and how long they took."""

    seconds: float
    steps: int
    samples: int

    @property
    def seconds_per_step(self) -> float:
        """Mean over the turn."""
        return self.seconds / self.steps

    @property
    def seconds_per_sample(self) -> float:
        """Mean over the turn; the last batch of a pass may be smaller than others."""
        return self.seconds / self.samples


class Stopwatch:
    """Carries out steps of an engine over a loader, pass after pass, and times them.

    On a CPU, whose processors loader and step share, a batch is made while a step is computed, and paid for
    by that step. The first steps of a turn are not timed: they use up the batches that were made while others
    had their turn, and get the memory that others gave back.
    """

    def __init__(
        self, engine: Engine, loader: SplitLoader, setup: Setup, *, device: torch.device, workers: int
    ) -> None:
        self._engine, self._loader, self._device, self._workers = engine, loader, device, workers
        self._setup = setup
        # An engine that is left in the middle of a pass takes that for an error, and says so.
        engine.logger = logging.getLogger(__name__)
        engine.logger.setLevel(logging.CRITICAL)
        self._epochs: int | None = None
        self._left = self._samples = 0
        self.steps_per_turn = 1
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        _name_data_wait(engine)

    @classmethod
    def of_training(cls, blueprint: Blueprint, parts: Parts) -> Stopwatch:
        """Time training steps; what is trained has an optimizer. Once for the same parts."""
        assert parts.optimizer is not None, "something is trained"
        setup = blueprint.protocol.setup
        engine = make_trainer(
            parts.task,
            parts.model,
            parts.optimizer,
            parts.plan,
            setup,
            device=parts.device,
            scaler=parts.scaler,
            progress=False,
        )
        metrics.attach_running_metrics(blueprint, engine, device=parts.device)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: parts.training.set_epoch(engine.state.epoch))
        logged = metrics.logged_steps(setup.log_interval)
        engine.add_event_handler(logged, lambda: float(engine.state.metrics[RUNNING_LOSS]))
        watch = cls(engine, parts.training, setup, device=parts.device, workers=setup.workers_train)
        watch._epochs = _WITHOUT_END
        return watch

    @classmethod
    def of_evaluation(cls, blueprint: Blueprint, parts: Parts) -> Stopwatch:
        """Time steps of the evaluation of the held-out split, its metrics included."""
        setup = blueprint.protocol.setup
        engine = make_evaluator(parts.task, parts.model, setup, device=parts.device, title=None)
        metrics.attach_metrics(blueprint, engine, "test", device=parts.device)
        loader = parts.evaluation["test"]
        return cls(engine, loader, setup, device=parts.device, workers=setup.workers_test)

    def warm_up(self, *, steps: int, turn_seconds: float) -> None:
        """Carry out the first steps, which are slow, and see how many make a turn of `turn_seconds`.

        Where several batches make one step of the optimizer, a turn has whole ones.
        """
        with self.conditions():
            self.run(steps)
            whole = self._setup.accumulate
            self.steps_per_turn = whole * max(1, round(turn_seconds / (whole * self.turn().seconds)))

    def turn(self) -> Turn:
        """Carry out and time the steps of one turn."""
        with self.conditions():
            self.run(_READY_BATCHES * self._workers + 1)
            start, before = time.perf_counter(), self._samples
            self.run(self.steps_per_turn)
            seconds = time.perf_counter() - start
        return Turn(seconds=seconds, steps=self.steps_per_turn, samples=self._samples - before)

    def run(self, steps: int = 1) -> None:
        """Carry out steps, and wait until the device has done them."""
        self._left = steps
        with self.conditions():
            while self._left:  # an evaluation ends after each pass, and is begun again
                self._engine.run(self._loader, max_epochs=self._epochs)
        self._synchronise()

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Have arithmetic and memory of the process as they are in a run of the protocol."""
        with float32_products(self._setup.precision), freed_memory(kept=self._setup.keep_memory):
            yield

    def _count(self, engine: Engine) -> None:
        assert engine.state.batch is not None, "a step has a batch"
        self._samples += len(engine.state.batch.indices)  # type: ignore[attr-defined]
        self._left -= 1
        if self._left == 0:
            engine.interrupt()

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _name_data_wait(engine: Engine) -> None:
    """Make a phase of the time in which an engine waits for its next batch."""
    waiting: list[record_function] = []

    def start() -> None:
        waiting.append(phase("data wait").__enter__())

    def stop() -> None:
        waiting.pop().__exit__(None, None, None)

    engine.add_event_handler(Events.GET_BATCH_STARTED, start)
    engine.add_event_handler(Events.GET_BATCH_COMPLETED, stop)
