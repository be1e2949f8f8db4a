"""The optimizer of a blueprint and the schedule of its rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.training.optimizer import build_optimizer
from ignite_trainer.training.parameters import ParameterPlan, at_rate
from ignite_trainer.training.schedule import build_schedule

MOST_REHEARSED = 10_000  # steps of a schedule


def build_optimization(
    blueprint: Blueprint, plan: ParameterPlan, *, rate: float, batches: int | None
) -> tuple[Optimizer | None, LRScheduler | None]:
    """Build the optimizer and its scheduler; none where nothing is trained.

    Args:
        blueprint: the classes and their arguments.
        plan: what is trained.
        rate: factor on all learning rates.
        batches: of an epoch; None: unknown.

    Raises:
        ProtocolError: with the JSON path of what is wrong, also where only a step would show it.
    """
    protocol = blueprint.protocol
    if not (blueprint.optimizer and protocol.optimizer and protocol.setup.epochs):
        return None, None
    _build(blueprint, _stand_ins(plan.groups), rate=rate, batches=batches, rehearsed=True)
    return _build(blueprint, plan.groups, rate=rate, batches=batches)


def _build(
    blueprint: Blueprint,
    groups: Sequence[dict[str, Any]],
    *,
    rate: float,
    batches: int | None,
    rehearsed: bool = False,
) -> tuple[Optimizer, LRScheduler | None]:
    protocol = blueprint.protocol
    assert blueprint.optimizer and protocol.optimizer
    optimizer = build_optimizer(
        blueprint.optimizer,
        at_rate(protocol.optimizer.args, rate),
        groups,
        precision=protocol.setup.precision,
    )
    if rehearsed:
        build(optimizer.step, {}, where="Optimizer")
    scheduler = build_schedule(
        protocol.schedules,
        blueprint.schedulers,
        optimizer,
        epochs=protocol.setup.epochs,
        batches=batches,
        accumulate=protocol.setup.accumulate,
    )
    if rehearsed and scheduler:
        # Schedules are stepped after optimizers; one by steps takes its first step with this.
        build(optimizer.step, {}, where="Scheduler")
        # One that is longer says what is wrong with it in its first steps, if anything is.
        for _ in range(int(protocol.schedules_steps), min(MOST_REHEARSED, _steps(protocol, batches))):
            build(scheduler.step, {}, where="Scheduler")
    return optimizer, scheduler


def _stand_ins(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups with a parameter of one value, and a gradient, in the place of each."""
    found = []
    for group in groups:
        parameters = [
            nn.Parameter(torch.zeros([1] * one.ndim, dtype=one.dtype, device=one.device))
            for one in group["params"][:1]
        ]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        found.append({**group, "params": parameters})
    return found


def _steps(protocol: Protocol, batches: int | None) -> int:
    """How often the schedule is stepped in the whole training, as far as that is known."""
    epochs = protocol.setup.epochs
    if not protocol.schedules_steps:
        return epochs
    return 1 if batches is None else epochs * math.ceil(batches / protocol.setup.accumulate)
