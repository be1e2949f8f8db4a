"""The optimizer of a blueprint and the schedule of its rates."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_trainer.blueprint import Blueprint
from ignite_trainer.optimizer import build_optimizer
from ignite_trainer.parameters import ParameterPlan, at_rate
from ignite_trainer.schedule import build_schedule


def build_optimization(
    blueprint: Blueprint, plan: ParameterPlan, *, rate: float, batches: int | None
) -> tuple[Optimizer | None, LRScheduler | None]:
    """Build the optimizer and its scheduler; none where nothing is trained.

    Args:
        blueprint: the classes and their arguments.
        plan: what is trained.
        rate: factor on all learning rates.
        batches: of an epoch; None: unknown.
    """
    protocol = blueprint.protocol
    if not (blueprint.optimizer and protocol.optimizer and protocol.setup.epochs):
        return None, None
    optimizer = build_optimizer(
        blueprint.optimizer,
        at_rate(protocol.optimizer.args, rate),
        plan.groups,
        precision=protocol.setup.precision,
    )
    scheduler = build_schedule(
        protocol.schedules,
        blueprint.schedulers,
        optimizer,
        epochs=protocol.setup.epochs,
        batches=batches,
        accumulate=protocol.setup.accumulate,
    )
    return optimizer, scheduler
