"""Ignite engines from a task: one that trains, one that evaluates."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import RunningAverage
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ignite_trainer.api.batch import part_of
from ignite_trainer.api.task import EmbeddingTask, StepOutput, Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import is_main, world_size
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.support.profiling import phase
from ignite_trainer.support.progress import ProgressLines, how_far, is_terminal
from ignite_trainer.training import distributed_steps
from ignite_trainer.training.distributed_steps import Joint
from ignite_trainer.training.gradient_cache import GradientCache
from ignite_trainer.training.lone_samples import LoneSamples
from ignite_trainer.training.metrics import ReadBack, logged_steps, seeing_one_process
from ignite_trainer.training.not_finite import StepWatch
from ignite_trainer.training.optimizer import OptimizerSteps
from ignite_trainer.training.out_of_memory import evaluation_failed, largest_that_fits, training_failed
from ignite_trainer.training.parameters import ParameterPlan
from ignite_trainer.training.precision import autocast, loss_scaler

_LEFT_FREE = 0.05
"""Share of a device's memory that a batch must leave free: in a long run memory is fragmented."""

RUNNING_LOSS = "ignite_trainer.running_loss"  # no label of a metric


def make_trainer(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    plan: ParameterPlan,
    setup: Setup,
    *,
    device: torch.device,
    scaler: GradScaler | None = None,
    watch: StepWatch | None = None,
    progress: bool = True,
    average: RunningAverage | None = None,
    lone_samples: LoneSamples | None = None,
) -> Engine:
    """An engine whose step computes the task's loss and, every `accumulate` batches, moves the weights.

    `scaler`, where one is given, is that of `loss_scaler`, and goes with the checkpoints. What modules do
    with complete gradients is said in `OptimizerSteps`. `watch` looks at losses and gradients; the batches of
    a step that it leaves out have no loss (None) in the engine's output, and no metric counts them.
    `progress` shows a bar. `average` is that of the loss, made by `running_average`, where it goes with the
    checkpoints. `lone_samples` leaves fields out of batches that would be alone in a batch norm.
    """
    step = _TrainingStep(
        task,
        model,
        optimizer,
        setup,
        device=device,
        scaler=scaler or loss_scaler(setup.precision, device),
        watch=watch or StepWatch(),
        lone_samples=lone_samples or LoneSamples(task, model, setup),
    )
    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: plan.train_mode(model))
    average = average or running_average(device)
    average.attach(trainer, RUNNING_LOSS, ReadBack(started=Events.STARTED, every=setup.log_interval))
    if progress:
        _show_progress(trainer, "Training", logged_steps(setup.log_interval), loss=True)
    return trainer


class _TrainingStep:
    """What the trainer does with a batch."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        setup: Setup,
        *,
        device: torch.device,
        scaler: GradScaler,
        watch: StepWatch,
        lone_samples: LoneSamples,
    ) -> None:
        self._task, self._model, self._optimizer, self._setup = task, model, optimizer, setup
        self._device, self._watch, self._lone_samples = device, watch, lone_samples
        self._steps = OptimizerSteps(model, optimizer, scaler, can_drop=watch.leaves_out)
        self._cache: GradientCache | None = None
        if isinstance(task, EmbeddingTask) and setup.embeds_in_parts:
            self._cache = GradientCache(task, model, setup, device=device)

    def __call__(self, engine: Engine, batch: Batch) -> StepOutput:
        try:
            return self._take(engine, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # What the step held is free only now, when nothing refers to the error.
        alone_on_cuda = self._device.type == "cuda" and world_size() == 1
        fits = self._fitting(batch) if alone_on_cuda else None
        raise training_failed(reason, self._setup, fits=fits, embeds=isinstance(self._task, EmbeddingTask))

    def _take(self, engine: Engine, batch: Batch) -> StepOutput:
        watch, steps = self._watch, self._steps
        at = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        batches = engine.state.epoch_length or 1
        position = (engine.state.iteration - 1) % batches
        first, size = _accumulation_group(position, batches, self._setup.accumulate)
        if position == first:
            watch.start_step()
            steps.start()
        forward = self._cache.forward if self._cache else self._forward
        output, whole = self._lone_samples.take(batch, forward, **at)
        if output is None or output.loss is None:
            raise TypeError(f"{type(self._task).__name__}.training_step gave no loss.")
        loss = output.loss.detach().float()  # averages over many steps want more digits than bfloat16 has
        if watch.loss(loss, whole.indices, **at):
            with phase("backward"):
                steps.backward(output.loss / size)
            if self._cache:
                self._cache.backward()
        if position == first + size - 1:
            with phase("optimizer"):
                if watch.sound:
                    steps.complete()
                if watch.gradients(steps.largest_gradient() if watch.sound else None, **at):
                    steps.take()
                else:
                    steps.drop()
        return StepOutput(output.y_pred.detach().float(), output.y, loss if watch.sound else None)

    def _forward(self, batch: Batch) -> Joint:
        with autocast(self._setup.precision, self._device):
            return distributed_steps.training_step(self._task, self._model, batch)

    def _fitting(self, batch: Batch) -> int | None:
        """Try which part of a batch fits into the memory of the device; None if no size was found.

        The trials change the weights, which does not matter: the run is about to end.
        """
        free = round(_LEFT_FREE * torch.cuda.get_device_properties(self._device).total_memory)

        def attempt(size: int) -> None:
            self._optimizer.zero_grad()
            torch.cuda.empty_cache()
            part = Batch(batch.indices[:size], part_of(batch.sample, slice(0, size)))
            left_free = torch.empty(free, dtype=torch.uint8, device=self._device)
            for _ in range(2):  # the second step also holds the optimizer state of the first
                output = self._forward(part).output
                if output is not None and output.loss is not None:
                    output.loss.backward()
                self._optimizer.step()
                self._optimizer.zero_grad()
            del left_free

        size = len(batch.indices)
        return largest_that_fits(attempt, min(size, self._setup.chunk or size) if self._cache else size)


def running_loss(trainer: Engine) -> float:
    """The running average of the loss, as last read back; nan while every step was left out."""
    value = trainer.state.metrics.get(RUNNING_LOSS)
    return math.nan if value is None else float(value)


def running_average(device: torch.device) -> RunningAverage:
    """The running average of the training loss."""
    return seeing_one_process(RunningAverage(output_transform=lambda output: output.loss, device=device))


def make_evaluator(
    task: Task, model: nn.Module, setup: Setup, *, device: torch.device, title: str | None
) -> Engine:
    """An engine whose step gives the task's scores and targets, in eval mode and without gradient.

    Of a batch without a sample it gives None. Where several processes evaluate, its output and its batch are
    those of all of them.

    `title` is that of a bar; None: there is none.
    """

    def step(engine: Engine, batch: Batch) -> StepOutput | None:
        try:
            with torch.inference_mode(), autocast(setup.precision, device):
                output, whole = distributed_steps.evaluation_step(task, model, batch, device=device)
        except Exception as error:
            if is_out_of_memory(error):
                raise evaluation_failed(str(error), setup) from error
            raise
        engine.state.batch = whole  # type: ignore[assignment]
        return None if output is None else output._replace(y_pred=output.y_pred.float())

    def start() -> None:
        model.eval()
        with torch.inference_mode(), autocast(setup.precision, device):
            task.start_evaluation(model)

    evaluator = Engine(step)
    evaluator.add_event_handler(Events.STARTED, start)
    if title is not None:
        _show_progress(evaluator, title, Events.ITERATION_COMPLETED)
    return evaluator


def _accumulation_group(position: int, epoch_length: int, accumulate: int) -> tuple[int, int]:
    """First batch and size of the group of batches, within an epoch, that make one optimizer step.

    The last group of an epoch is smaller where `accumulate` does not divide the epoch: its gradients are
    averaged over the batches it has.
    """
    first = position - position % accumulate
    return first, min(accumulate, epoch_length - first)


def _show_progress(engine: Engine, title: str, events: Any, *, loss: bool = False) -> None:
    """Attach a bar; where there is no terminal, lines, but for steps of training, which reporters print."""
    if not is_main():
        return
    if not is_terminal():
        if not loss:
            lines = ProgressLines()
            engine.add_event_handler(Events.EPOCH_STARTED, lines.start)
            engine.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda: lines.say(f"{title}: {how_far(engine.state.iteration, engine.state.epoch_length)}"),
            )
        return
    bar = ProgressBar(
        desc=title,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
    )
    show = (lambda _: {"loss": running_loss(engine)}) if loss else None
    bar.attach(engine, output_transform=show, event_name=events)
