"""Ignite engines from a task: one that trains, one that evaluates."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import RunningAverage
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ignite_trainer.data import Batch
from ignite_trainer.metrics import ReadBack
from ignite_trainer.optimizer import OptimizerSteps
from ignite_trainer.parameters import ParameterPlan
from ignite_trainer.phases import phase
from ignite_trainer.precision import autocast, loss_scaler
from ignite_trainer.protocol import Setup
from ignite_trainer.task import StepOutput, Task

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
    progress: bool = True,
    average: RunningAverage | None = None,
) -> Engine:
    """An engine whose step computes the task's loss and, every `accumulate` batches, moves the weights.

    `scaler`, where one is given, is that of `loss_scaler`, and goes with the checkpoints. What modules do
    with complete gradients is said in `OptimizerSteps`. `progress` shows a bar. `average` is that of the
    loss, made by `running_average`, where it goes with the checkpoints.
    """
    steps = OptimizerSteps(model, optimizer, scaler or loss_scaler(setup.precision, device))

    def step(engine: Engine, batch: Batch) -> StepOutput:
        batches = engine.state.epoch_length or 1
        position = (engine.state.iteration - 1) % batches
        with autocast(setup.precision, device):
            output = task.training_step(model, batch.sample)
        if output.loss is None:
            raise TypeError(f"{type(task).__name__}.training_step gave no loss.")
        first, size = _accumulation_group(position, batches, setup.accumulate)
        with phase("backward"):
            steps.backward(output.loss / size)
        if position == first + size - 1:
            with phase("optimizer"):
                steps.take()
        # Averages over many steps want more digits than bfloat16 has.
        return StepOutput(output.y_pred.detach().float(), output.y, output.loss.detach().float())

    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: plan.train_mode(model))
    average = average or running_average(device)
    average.attach(trainer, RUNNING_LOSS, ReadBack(started=Events.STARTED, every=setup.log_interval))
    if progress:
        _show_progress(trainer, "Training", every=setup.log_interval, loss=True)
    return trainer


def running_average(device: torch.device) -> RunningAverage:
    """The running average of the training loss."""
    return RunningAverage(output_transform=lambda output: output.loss, device=device)


def make_evaluator(
    task: Task, model: nn.Module, setup: Setup, *, device: torch.device, title: str | None
) -> Engine:
    """An engine whose step gives the task's scores and targets, in eval mode and without gradient.

    `title` is that of a bar; None: there is none.
    """

    def step(_: Engine, batch: Batch) -> StepOutput:
        with torch.inference_mode(), autocast(setup.precision, device):
            output = task.evaluation_step(model, batch.sample)
        return output._replace(y_pred=output.y_pred.float())

    def start() -> None:
        model.eval()
        with torch.inference_mode(), autocast(setup.precision, device):
            task.start_evaluation(model)

    evaluator = Engine(step)
    evaluator.add_event_handler(Events.STARTED, start)
    if title is not None:
        _show_progress(evaluator, title, every=1)
    return evaluator


def _accumulation_group(position: int, epoch_length: int, accumulate: int) -> tuple[int, int]:
    """First batch and size of the group of batches, within an epoch, that make one optimizer step.

    The last group of an epoch is smaller where `accumulate` does not divide the epoch: its gradients are
    averaged over the batches it has.
    """
    first = position - position % accumulate
    return first, min(accumulate, epoch_length - first)


def _show_progress(engine: Engine, title: str, *, every: int, loss: bool = False) -> None:
    """Attach a bar; on redirected output there is none (`disable=None`)."""
    bar = ProgressBar(
        desc=title,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        disable=None,
    )
    events = Events.ITERATION_COMPLETED(every=every)
    show = (lambda _: {"loss": float(engine.state.metrics[RUNNING_LOSS])}) if loss else None
    bar.attach(engine, output_transform=show, event_name=events)
