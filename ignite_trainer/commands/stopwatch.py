"""Times a run's steps (engine, loader, metrics and augmentation), and projects the run's duration."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from ignite.engine import Engine, Events
from torch.profiler import record_function

from ignite_trainer.api.reporter import Split
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.sections import Protocol, Setup
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.support.memory import freed_memory
from ignite_trainer.training import metrics
from ignite_trainer.training.engines import RUNNING_LOSS, make_evaluator, make_trainer
from ignite_trainer.training.forward import tf32_setting

_ENDLESS = 2**31
_PREFETCHED = 2  # batches that each loader process loads ahead, torch's default


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Duration of consecutive steps."""

    seconds: float
    steps: int
    samples: int

    @property
    def seconds_per_step(self) -> float:
        """Mean over the turn."""
        return self.seconds / self.steps

    @property
    def seconds_per_sample(self) -> float:
        """Mean over the turn. The last batch of a pass may be smaller than the other batches."""
        return self.seconds / self.samples


class Stopwatch:
    """Runs and times steps of an engine over a loader, pass after pass.

    On a CPU, the loader and the step share the cores, so the time of a step includes loading the next batch.
    The first steps of a turn are not timed: they use up batches that were loaded during other turns, and
    allocate memory again that was released during other turns.

    Attributes:
        steps_per_turn: number of timed steps in a turn.
    """

    def __init__(
        self, engine: Engine, loader: SplitLoader, setup: Setup, *, workers: int, device: torch.device
    ) -> None:
        self._engine = engine
        self._loader = loader
        self._setup = setup
        self._workers = workers
        self._device = device
        # An engine that is interrupted in the middle of a pass logs an error.
        engine.logger = logging.getLogger(__name__)
        engine.logger.setLevel(logging.CRITICAL)
        self._epochs: int | None = None
        self._left = self._samples = 0
        self.steps_per_turn = 1
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        _name_data_wait(engine)

    @classmethod
    def of_training(cls, blueprint: Blueprint, parts: Parts) -> Stopwatch:
        """Time training steps. The parts must have an optimizer; call this only once for the same parts."""
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
        by_iteration = metrics.attach_running_metrics(blueprint, engine, device=parts.device)
        parts.task.scores_are_read = bool(by_iteration)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: parts.training.set_epoch(engine.state.epoch))
        logged = metrics.logged_steps(setup.log_interval)
        engine.add_event_handler(logged, lambda: float(engine.state.metrics[RUNNING_LOSS]))
        watch = cls(engine, parts.training, setup, workers=setup.workers_train, device=parts.device)
        watch._epochs = _ENDLESS
        return watch

    @classmethod
    def of_evaluation(cls, blueprint: Blueprint, parts: Parts) -> Stopwatch:
        """Time evaluation steps over the held-out split, including metrics."""
        setup = blueprint.protocol.setup
        engine = make_evaluator(parts.task, parts.model, setup, device=parts.device, title=None)
        metrics.attach_metrics(blueprint, engine, "test", device=parts.device)
        loader = parts.evaluation["test"]
        return cls(engine, loader, setup, workers=setup.workers_test, device=parts.device)

    def warm_up(self, *, steps: int, turn_seconds: float) -> None:
        """Run the first steps, which are slow, and choose as many steps per turn as fit in `turn_seconds`.

        A turn consists of whole optimizer steps, at least one.
        """
        with self.conditions():
            self.run(steps)
            whole = self._setup.accumulate
            self.steps_per_turn = whole * max(1, round(turn_seconds / (whole * self.turn().seconds)))

    def turn(self) -> Turn:
        """Run one turn, and return how long it took."""
        with self.conditions():
            self.run(_PREFETCHED * self._workers + 1)
            start, before = time.perf_counter(), self._samples
            self.run(self.steps_per_turn)
            seconds = time.perf_counter() - start
        return Turn(seconds=seconds, steps=self.steps_per_turn, samples=self._samples - before)

    def run(self, steps: int = 1) -> None:
        """Run steps, and wait for the device to finish them."""
        self._left = steps
        with self.conditions():
            while self._left:  # an evaluation ends after each pass and starts again
                self._engine.run(self._loader, max_epochs=self._epochs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Set the arithmetic precision and memory management that a run of the protocol uses."""
        with tf32_setting(self._setup.precision), freed_memory(kept=self._setup.keep_memory):
            yield

    def _count(self, engine: Engine) -> None:
        assert engine.state.batch is not None, "a step has a batch"
        self._samples += len(engine.state.batch.indices)  # type: ignore[attr-defined]
        self._left -= 1
        if self._left == 0:
            engine.interrupt()


def _name_data_wait(engine: Engine) -> None:
    """Record the time that an engine waits for its next batch as a phase in profiles."""
    waiting: list[record_function] = []
    engine.add_event_handler(
        Events.GET_BATCH_STARTED, lambda: waiting.append(record_function("step/data wait").__enter__())
    )
    engine.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: waiting.pop().__exit__(None, None, None))


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Projected duration of a protocol, excluding data preparation, compilation, checkpoints and reports.

    Attributes:
        epochs: number of epochs of a run.
        runs: number of runs, one for each combination of the values in `Sweep`.
        seconds_per_run: duration of one evaluation, then of training and evaluations in each epoch.
        seconds: duration of all runs, one after the other.
    """

    epochs: int
    runs: int
    seconds_per_run: float
    seconds: float


def project(
    protocol: Protocol, sizes: Mapping[Split, int], samples_per_second: Mapping[str, float]
) -> Projection:
    """Project the duration of a protocol, assuming that all runs of its `Sweep` take the same time.

    `sizes` has the number of samples in each split, `samples_per_second` the speed of "evaluation" and, if
    there are epochs, of "training".
    """
    setup = protocol.setup
    evaluated = (sizes["test"] + sizes.get("validation", 0)) * (1 + setup.epochs)
    if not setup.skip_train_evaluation:
        evaluated += sizes["train"] * setup.epochs
    seconds = evaluated / samples_per_second["evaluation"]
    if setup.epochs:
        # Training drops an incomplete last batch.
        samples = setup.samples_of_epoch(sizes["train"])
        trained = setup.epochs * (samples - samples % setup.batch_train)
        seconds += trained / samples_per_second["training"]
    runs = math.prod(map(len, protocol.sweep.values()))
    return Projection(epochs=setup.epochs, runs=runs, seconds_per_run=seconds, seconds=runs * seconds)
