"""The learning rates of a run: one of torch's schedulers or several in turn, by epoch or by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import ScheduleSpec
from ignite_trainer.support.errors import ProtocolError


def build_schedule(
    specs: Mapping[str, ScheduleSpec],
    kinds: Sequence[type[LRScheduler]],
    optimizer: Optimizer,
    *,
    epochs: int,
    batches: int | None,
    accumulate: int,
) -> LRScheduler | None:
    """Build the schedulers of a protocol, each in its turn.

    ```text
    lasts 100        lasts "rest"
    LinearLR    ---> CosineAnnealingLR ------> end of training
    ```

    By epoch it is stepped by whoever closes one. By step it follows the optimizer: a step that is not taken
    does not count.

    Args:
        specs: in turn, by their JSON paths.
        kinds: their classes.
        optimizer: whose rates are scheduled.
        epochs: of the whole training.
        batches: of an epoch; None: unknown, and lengths are not looked at.
        accumulate: batches that make a step.

    Returns:
        The scheduler; None if there are no specs.

    Raises:
        ProtocolError: arguments that a class cannot have, or turns that do not fit the training.
    """
    if not specs:
        return None
    by_step = next(iter(specs.values())).interval == "step"
    total = epochs if not by_step else None if batches is None else epochs * math.ceil(batches / accumulate)
    schedulers, milestones, start = [], [], 0
    for (where, spec), kind in zip(specs.items(), kinds, strict=True):
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
    if by_step:

        def follow(*_: object) -> None:  # but for steps that are only measured, after the end of the training
            if total is None or scheduler.last_epoch < total:
                scheduler.step()

        optimizer.register_step_post_hook(follow)
    return scheduler
