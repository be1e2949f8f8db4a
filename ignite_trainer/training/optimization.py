"""Builds the optimizer, with a fused kernel if possible, and the learning-rate schedule."""

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

_MAX_REHEARSED = 10_000  # steps of a schedule


def build_optimization(
    blueprint: Blueprint, plan: ParameterPlan, *, rate: float, batches: int | None
) -> tuple[Optimizer | None, LRScheduler | None]:
    """Build the optimizer and its scheduler; return None for both if nothing is trained.

    Both are first tried out on single-element parameters, so that errors in later steps are found here.

    Args:
        blueprint: classes of the run and their arguments.
        plan: trained parameters.
        rate: factor applied to all learning rates.
        batches: number of batches in an epoch, if known.

    Returns:
        The optimizer, and the scheduler if the protocol has one.

    Raises:
        ProtocolError: Arguments are invalid; the message has their JSON path.
    """
    protocol = blueprint.protocol
    if not (blueprint.optimizer and protocol.optimizer and protocol.setup.epochs):
        return None, None
    args = _at_rate(protocol.optimizer.args, rate)
    groups = [
        _at_depth(_at_rate(group, rate), args, blueprint.optimizer, factor=origin.rate)
        for group, origin in zip(plan.groups, plan.origins, strict=True)
    ]
    total = _total_intervals(protocol, batches)
    precision = protocol.setup.precision

    rehearsed = build_optimizer(blueprint.optimizer, args, _stand_ins(groups), precision=precision)
    build(rehearsed.step, {}, where="Optimizer")
    schedule = _build_schedule(blueprint, rehearsed, total)
    if schedule:
        # Schedules are stepped after optimizers; one with the interval "step" follows the optimizer here.
        build(rehearsed.step, {}, where="Scheduler")
        for _ in range(int(protocol.schedules_steps), min(_MAX_REHEARSED, total or 1)):
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
    `foreach` where it is faster.

    Args:
        kind: optimizer class.
        args: arguments that apply to all groups.
        groups: parameter groups with their arguments.
        precision: precision of the steps. With "fp16", no fused kernel is used, as it would skip a step
            without the host's knowledge, after modules have changed the gradients.

    Raises:
        ProtocolError: The class does not accept the arguments.
    """
    if precision == "fp16" and args.get("fused"):
        raise ProtocolError(
            'Optimizer.args.fused is true, but Setup.precision "fp16" needs an optimizer that reports '
            'skipped steps, which a fused one does not. Remove Optimizer.args.fused, or choose "bf16".'
        )
    optimizer = None
    given = (args, *groups)
    named = {"fused", "foreach"} & {key for each in given for key in each}
    has_kernel = "fused" in inspect.signature(kind).parameters and precision != "fp16"
    if has_kernel and not named and not any(each.get("dampening") for each in given):
        # A RuntimeError means that there is no fused kernel for this device or dtype. `build` raises any
        # other error again below. The groups are copied because torch writes to them.
        with contextlib.suppress(Exception):
            optimizer = kind([dict(group) for group in groups], **{**args, "fused": True})
    optimizer = optimizer or build(kind, args, groups, where="Optimizer")
    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.register_step_pre_hook(_begin_momentum)
    optimizer.register_step_post_hook(_count_write)
    return optimizer


def _count_write(optimizer: Optimizer, *_: object) -> None:
    """Increment the version counters of the updated parameters, so that cached values are recomputed.

    Neither fused kernels nor optimizers that write through `parameter.data` increment the counters.
    """
    torch.autograd.graph.increment_version(
        [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    )


def _begin_momentum(optimizer: Optimizer, *_: object) -> None:
    """Give zero momentum to parameters that get their first gradient later than others.

    A batch may lack the data for a part of the model. SGD's fused kernel requires that all parameters have a
    momentum buffer, or none of them. Without dampening, a first step with zero momentum equals a first step
    without momentum.
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
    """Build the protocol's schedulers as one that runs them in turn; return None if it has none.

    ```text
    lasts 100        lasts "rest"
    LinearLR    ---> CosineAnnealingLR ------> end of training
    ```

    A schedule with the interval "step" follows the optimizer, so skipped steps do not count. Other schedules
    are stepped at the end of each epoch. `total` is the number of intervals in all of training, if known.
    """
    specs = blueprint.protocol.schedules
    if not specs:
        return None
    schedulers, milestones, start = [], [], 0
    for (where, spec), kind in zip(specs.items(), blueprint.schedulers, strict=True):
        if total is not None and start >= total:
            raise ProtocolError(
                f"{where} would begin after {start} {spec.interval}s, but training has only {total}. "
                "Shorten the schedulers before it, or train for more epochs."
            )
        length = spec.duration(kind)
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
    """Return the number of times that the schedule is stepped in training, or None if it is unknown."""
    epochs = protocol.setup.epochs
    if not protocol.schedules_steps:
        return epochs
    return None if batches is None else epochs * math.ceil(batches / protocol.setup.accumulate)


def _at_rate(args: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """Multiply the learning rate in optimizer arguments; the optimizer itself refuses an invalid type."""
    return {
        key: rate * value if key == "lr" and isinstance(value, int | float) else value
        for key, value in args.items()
    }


def _at_depth(
    group: dict[str, Any], args: Mapping[str, Any], kind: type[Optimizer], *, factor: float
) -> dict[str, Any]:
    """Give a group its own learning rate if its layers have a factor: `factor` times the rule's rate."""
    if factor == 1:
        return group
    default = inspect.signature(kind).parameters["lr"].default
    of_rule = {"lr": default, **args, **group}["lr"]
    return {**group, **_at_rate({"lr": of_rule}, factor)}


def _stand_ins(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace the parameters in each group with a single-element parameter that has a gradient."""
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
