"""The optimizer of a blueprint, in its fastest form, and the schedule of its learning rates."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Precision, Protocol
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.parameters import ParameterPlan

_MOST_REHEARSED = 10_000  # steps of a schedule


def build_optimization(
    blueprint: Blueprint, plan: ParameterPlan, *, rate: float, batches: int | None
) -> tuple[Optimizer | None, LRScheduler | None]:
    """Build the optimizer and its scheduler, or none if nothing is trained.

    Both first take steps on parameters of one value, so that errors of a later step are found here.

    Args:
        blueprint: the classes and their arguments.
        plan: the parameters that are trained.
        rate: factor on all learning rates.
        batches: number of batches in an epoch, if known.

    Raises:
        ProtocolError: with the JSON path of the wrong arguments.
    """
    protocol = blueprint.protocol
    if not (blueprint.optimizer and protocol.optimizer and protocol.setup.epochs):
        return None, None
    args = _at_rate(protocol.optimizer.args, rate)
    groups = [_at_rate(group, rate) for group in plan.groups]
    total = _total_intervals(protocol, batches)
    precision = protocol.setup.precision

    rehearsed = build_optimizer(blueprint.optimizer, args, _stand_ins(groups), precision=precision)
    build(rehearsed.step, {}, where="Optimizer")
    schedule = _build_schedule(blueprint, rehearsed, total)
    if schedule:
        # Schedules are stepped after optimizers; a schedule by steps follows this step.
        build(rehearsed.step, {}, where="Scheduler")
        for _ in range(int(protocol.schedules_steps), min(_MOST_REHEARSED, total or 1)):
            build(schedule.step, {}, where="Scheduler")

    optimizer = build_optimizer(blueprint.optimizer, args, groups, precision=precision)
    return optimizer, _build_schedule(blueprint, optimizer, total)


def build_optimizer(
    kind: type[Optimizer],
    args: Mapping[str, Any],
    groups: Sequence[dict[str, Any]],
    *,
    precision: Precision = "fp32",
) -> Optimizer:
    """Build an optimizer, with a fused kernel if there is one for these parameters.

    The arguments `fused` and `foreach` take precedence. Without a fused kernel, torch itself chooses
    `foreach` where that is faster.

    Args:
        kind: the class.
        args: arguments that apply to all groups.
        groups: parameters, with the arguments of each group.
        precision: precision of the steps. "fp16" takes no fused kernel, which would skip a step unnoticed by
            the host, after modules have worked on its gradients.

    Raises:
        ProtocolError: the class does not accept the arguments.
    """
    if precision == "fp16" and args.get("fused"):
        raise ProtocolError(
            'Optimizer.args.fused is true, but Setup.precision "fp16" skips steps whose gradients overflow, '
            "which a fused optimizer cannot do. Remove it, or choose bf16."
        )
    optimizer = None
    given = (args, *groups)
    named = {"fused", "foreach"} & {key for each in given for key in each}
    has_kernel = "fused" in inspect.signature(kind).parameters and precision != "fp16"
    if has_kernel and not named and not any(each.get("dampening") for each in given):
        # A RuntimeError means that there is no fused kernel for this device or type of parameter. Other
        # errors are raised again below. The groups are copied because torch writes into them.
        with contextlib.suppress(Exception):
            optimizer = kind([dict(group) for group in groups], **{**args, "fused": True})
    optimizer = optimizer or build(kind, args, groups, where="Optimizer")
    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.register_step_pre_hook(_begin_momentum)
    optimizer.register_step_post_hook(_count_write)
    return optimizer


def _count_write(optimizer: Optimizer, *_: object) -> None:
    """Raise the version counters of the parameters of a step, so that cached values are recomputed.

    Fused kernels do not raise them, nor do optimizers that write through `parameter.data`.
    """
    torch.autograd.graph.increment_version(
        [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    )


def _begin_momentum(optimizer: Optimizer, *_: object) -> None:
    """Give a momentum of zero to parameters that get their first gradient later than others.

    A batch may lack the data that a part of the model is for. SGD's fused kernel accepts parameters that all
    have a momentum, or none of them. Without dampening, a first step from zero momentum equals one without.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        moved = [weight for weight in group["params"] if weight.grad is not None]
        late = [weight for weight in moved if optimizer.state.get(weight, {}).get("momentum_buffer") is None]
        if len(late) < len(moved):
            for weight in late:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)


def _build_schedule(blueprint: Blueprint, optimizer: Optimizer, total: int | None) -> LRScheduler | None:
    """Build the schedulers of a protocol, one after another, or None.

    ```text
    lasts 100        lasts "rest"
    LinearLR    ---> CosineAnnealingLR ------> end of training
    ```

    A schedule by steps follows the optimizer, so a step that is left out does not count. A schedule by epochs
    is stepped at the end of an epoch. `total` is the number of intervals, if known.
    """
    specs = blueprint.protocol.schedules
    if not specs:
        return None
    schedulers, milestones, start = [], [], 0
    for (where, spec), kind in zip(specs.items(), blueprint.schedulers, strict=True):
        if total is not None and start >= total:
            raise ProtocolError(
                f"{where} would begin after {start} {spec.interval}s, and the training has {total}. Shorten "
                "what comes before it, or train for more epochs."
            )
        length = spec.lasts
        if length == "rest":
            length = max(1, (start + 1 if total is None else total) - start)
        args = {**spec.lengths(kind, length=length), **spec.args}
        schedulers.append(build(kind, args, optimizer, where=where))
        start += length or 0
        milestones.append(start)
    scheduler = (
        schedulers[0] if len(schedulers) == 1 else SequentialLR(optimizer, schedulers, milestones[:-1])
    )
    if blueprint.protocol.schedules_steps:

        def follow(*_: object) -> None:  # except in steps that are only timed, after the end of training
            if total is None or scheduler.last_epoch < total:
                scheduler.step()

        optimizer.register_step_post_hook(follow)
    return scheduler


def _total_intervals(protocol: Protocol, batches: int | None) -> int | None:
    """Return how often the schedule is stepped in the whole training, or None if that is unknown."""
    epochs = protocol.setup.epochs
    if not protocol.schedules_steps:
        return epochs
    return None if batches is None else epochs * math.ceil(batches / protocol.setup.accumulate)


def _at_rate(args: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """Multiply the learning rate in optimizer arguments; a wrong type is left for the optimizer to refuse."""
    return {
        key: rate * value if key == "lr" and isinstance(value, int | float) else value
        for key, value in args.items()
    }


def _stand_ins(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with one parameter of one value, and its gradient, in place of their parameters."""
    stand_ins = []
    for group in groups:
        parameters = [
            nn.Parameter(torch.zeros([1] * weight.ndim, dtype=weight.dtype, device=weight.device))
            for weight in group["params"][:1]
        ]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        stand_ins.append({**group, "params": parameters})
    return stand_ins
