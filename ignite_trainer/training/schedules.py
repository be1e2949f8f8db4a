"""A learning-rate schedule for protocols: a linear warm-up, then half a cosine."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["WarmUpCosine"]


class WarmUpCosine(LambdaLR):
    """Raise all learning rates linearly to their given values, then lower them along half a cosine.

        factor
        1      |     .--.               after t of T intervals, with W = warm_up * T:
               |   .      .             t < W:   (t + 1) / W
               | .          .           t >= W:  final + (1 - final) * (1 + cos x) / 2,
        final  |              ' . __             x = pi * (t - W) / (T - W)
               +-----+-----------+--- t
               0     W           T

    This is the schedule of open_clip; the cosine is that of SGDR without restarts (arXiv 1608.03983), and the
    warm-up that of arXiv 1706.02677. The groups' learning rates keep their ratios.

    Args:
        optimizer: optimizer whose learning rates follow the schedule.
        total_steps: number T of intervals, epochs or steps; in a protocol, the rest of training by default.
        warm_up: share of T in the warm-up, 0 to 1; W is rounded to a whole number.
        final: factor at the end, 0 to 1.
        last_epoch: number of the last interval if an earlier schedule is continued; -1 for a new schedule.

    Raises:
        ValueError: An argument is out of range.
    """

    lasts: ClassVar[Literal["rest"]] = "rest"
    """Duration in a protocol that gives none."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warm_up: float = 0.1,
        final: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        for name, share in (("warm_up", warm_up), ("final", final)):
            if type(share) not in (int, float) or not 0 <= share <= 1:
                raise ValueError(f"{name} is {share!r}; it must be a share, 0 to 1.")
        if type(total_steps) is not int or total_steps < 1:
            raise ValueError(f"total_steps is {total_steps!r}; it must be a whole number, 1 or more.")
        rising = round(warm_up * total_steps)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            progress = min(1.0, (step - rising) / max(1, total_steps - rising))
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, factor, last_epoch)
