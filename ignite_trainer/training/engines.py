"""Ignite engines that train and evaluate a model on a task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import RunningAverage
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.profiler import record_function

from ignite_trainer.api.task import EmbeddingTask, StepOutput, Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import is_main, world_size
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.support.progress import ProgressLines, how_far, is_terminal
from ignite_trainer.training.forward import (
    GradientCache,
    JointResult,
    autocast,
    evaluation_step,
    training_step,
)
from ignite_trainer.training.lone_samples import LoneSamples
from ignite_trainer.training.metrics import logged_steps, read_back, without_reduction
from ignite_trainer.training.optimizer_steps import OptimizerSteps, StepWatch, loss_scaler
from ignite_trainer.training.out_of_memory import (
    evaluation_memory_error,
    largest_that_fits,
    training_memory_error,
)
from ignite_trainer.training.parameters import ParameterPlan

_LEFT_FREE = 0.05
"""Share of a device's memory that a batch must leave free, as memory becomes fragmented in a long run."""

RUNNING_LOSS = "ignite_trainer.running_loss"  # differs from every metric's label


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
    """Make an engine that computes the task's loss and takes an optimizer step every `accumulate` batches.

    Args:
        task: task whose training step returns the loss.
        model: model to train. It is put in train mode at the start of each epoch, except for the modules that
            `plan` freezes.
        optimizer: optimizer of the model; see `OptimizerSteps` for the modules' `before_optimizer_step` hook.
        plan: trained parameters, limits of their gradients, and frozen modules.
        setup: `Setup` section of the run.
        device: device of the model and the batches.
        scaler: result of `loss_scaler`; None to make one that checkpoints do not save.
        watch: check of losses and gradients. The batches of a step that it skips have no loss in the engine's
            output, and metrics do not count them.
        progress: whether to show a progress bar.
        average: result of `running_average`; None to make one that checkpoints do not save.
        lone_samples: filter that drops fields from batches in which batch norm would see a single value.
    """
    step = _TrainingStep(
        task=task,
        model=model,
        optimizer=optimizer,
        plan=plan,
        setup=setup,
        device=device,
        scaler=scaler or loss_scaler(setup.precision, device),
        watch=watch or StepWatch(),
        lone_samples=lone_samples or LoneSamples(task, model, setup),
    )
    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: plan.train_mode(model))
    average = average or running_average(device)
    average.attach(trainer, RUNNING_LOSS, read_back(started=Events.STARTED, every=setup.log_interval))
    if progress:
        _show_progress(trainer, "Training", logged_steps(setup.log_interval), loss=True)
    return trainer


@dataclass(eq=False, kw_only=True)
class _TrainingStep:
    """Process function of the trainer."""

    task: Task
    model: nn.Module
    optimizer: Optimizer
    plan: ParameterPlan
    setup: Setup
    device: torch.device
    scaler: GradScaler
    watch: StepWatch
    lone_samples: LoneSamples

    def __post_init__(self) -> None:
        self._steps = OptimizerSteps(
            self.model,
            self.optimizer,
            self.scaler,
            limits=self.plan.limits,
            can_drop=self.watch.can_skip,
        )
        self._cache: GradientCache | None = None
        if isinstance(self.task, EmbeddingTask) and self.setup.embeds_in_parts:
            self._cache = GradientCache(self.task, self.model, self.setup, device=self.device)

    def __call__(self, engine: Engine, batch: Batch) -> StepOutput:
        try:
            return self._take(engine, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # The step's tensors are only freed here, where no reference to the error is left.
        alone_on_cuda = self.device.type == "cuda" and world_size() == 1
        fits = self._fitting(batch) if alone_on_cuda else None
        raise training_memory_error(
            reason, self.setup, fits=fits, can_chunk=isinstance(self.task, EmbeddingTask)
        )

    def _take(self, engine: Engine, batch: Batch) -> StepOutput:
        watch, steps = self.watch, self._steps
        at = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        # The last optimizer step of an epoch has fewer batches if `accumulate` does not divide the number of
        # batches; its gradients are averaged over the batches that it has.
        batches = engine.state.epoch_length or 1
        position = (engine.state.iteration - 1) % batches
        first = position - position % self.setup.accumulate
        size = min(self.setup.accumulate, batches - first)
        if position == first:
            watch.start_step()
            steps.start()
        output, whole = self.lone_samples.take(
            batch, self._cache.forward if self._cache else self._forward, **at
        )
        if output is None or output.loss is None:
            raise TypeError(f"{type(self.task).__name__}.training_step returned no loss.")
        loss = output.loss.detach().float()  # averages over many steps need more precision than bfloat16 has
        if watch.loss(loss, whole.indices, **at):
            with record_function("step/backward"):
                steps.backward(output.loss / size)
            if self._cache:
                self._cache.backward()
        if position == first + size - 1:
            with record_function("step/optimizer"):
                if watch.finite:
                    steps.complete()
                if watch.gradients(steps.largest_gradient() if watch.finite else None, **at):
                    steps.take()
                else:
                    steps.drop()
        return StepOutput(output.y_pred.detach().float(), output.y, loss if watch.finite else None)

    def _forward(self, batch: Batch) -> JointResult:
        with autocast(self.setup.precision, self.device):
            return training_step(self.task, self.model, batch)

    def _fitting(self, batch: Batch) -> int | None:
        """Find how many samples of a batch fit in the device's memory; return None if no size is found.

        The trials change the weights, which does not matter because the run is about to end.
        """
        free = round(_LEFT_FREE * torch.cuda.get_device_properties(self.device).total_memory)

        def attempt(size: int) -> None:
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
            part = batch.part(slice(0, size))
            left_free = torch.empty(free, dtype=torch.uint8, device=self.device)
            for _ in range(2):  # the second step also needs memory for the optimizer state
                output = self._forward(part).output
                if output is not None and output.loss is not None:
                    output.loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
            del left_free

        size = len(batch.indices)
        return largest_that_fits(attempt, min(size, self.setup.chunk or size) if self._cache else size)


def running_loss(trainer: Engine) -> float:
    """Return the last logged running average of the loss; nan if all steps so far were skipped."""
    value = trainer.state.metrics.get(RUNNING_LOSS)
    return math.nan if value is None else float(value)


def running_average(device: torch.device) -> RunningAverage:
    """Build the running average of the training loss."""
    return without_reduction(RunningAverage(output_transform=lambda output: output.loss, device=device))


def make_evaluator(
    task: Task, model: nn.Module, setup: Setup, *, device: torch.device, title: str | None
) -> Engine:
    """Make an engine that computes the task's scores and targets in eval mode, without gradients.

    The output is None if the batch is empty. With several processes, the engine's output and batch cover the
    samples of all processes. The progress bar has the `title`; if it is None, no bar is shown.
    """

    def step(engine: Engine, batch: Batch) -> StepOutput | None:
        try:
            with torch.inference_mode(), autocast(setup.precision, device):
                output, whole = evaluation_step(task, model, batch, device=device)
        except Exception as error:
            if is_out_of_memory(error):
                raise evaluation_memory_error(str(error), setup) from error
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


def _show_progress(engine: Engine, title: str, events: Any, *, loss: bool = False) -> None:
    """Attach a progress bar; without a terminal, print lines instead, and nothing in training (`loss`)."""
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
