"""Losses and gradients that are not finite: found, and traced to the batches they came from.

The device is not waited for unless steps are to be left out: what a step gave stays there, with the positions
of its samples kept beside it, until `StepWatch.first` reads all of it back at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class NotFinite(NamedTuple):
    """Where something was not finite.

    Attributes:
        what: "The loss is nan", say.
        epoch: from 1.
        iteration: since the start of training, from 1.
        indices: positions of the samples in the data set.
    """

    what: str
    epoch: int
    iteration: int
    indices: list[int]


class _Seen(NamedTuple):
    """A number that a step gave, still on the device."""

    value: Tensor
    of_gradients: bool
    epoch: int
    iteration: int
    indices: list[int]

    def verdict(self) -> NotFinite:
        what = "The gradients are not finite" if self.of_gradients else f"The loss is {float(self.value)}"
        return NotFinite(what, self.epoch, self.iteration, self.indices)


class StepWatch:
    """Looks at the loss of every batch and at the gradients of every step.

    Args:
        leave_out: told of a step that is to be left out, at once; it may raise, to end the run. For this the
            host waits for the device twice in a step. None: every step is taken, and `first` tells later.
    """

    def __init__(self, leave_out: Callable[[NotFinite], None] | None = None) -> None:
        self._leave_out = leave_out
        self._pending: list[_Seen] = []
        self._indices: list[int] = []
        self.sound = True

    @property
    def leaves_out(self) -> bool:
        """Whether steps may be left out."""
        return self._leave_out is not None

    def start_step(self) -> None:
        """Begin a step, of one batch or of several."""
        self._indices, self.sound = [], True

    def loss(self, value: Tensor, indices: Tensor, *, epoch: int, iteration: int) -> bool:
        """Look at the loss of a batch; return whether the step is sound so far."""
        of_batch = indices.tolist()
        self._indices += of_batch
        return self._look(_Seen(value.float().reshape(()), False, epoch, iteration, of_batch))

    def gradients(self, largest: Tensor | None, *, epoch: int, iteration: int) -> bool:
        """Look at the largest of the gradients, None where it is of no use; say whether to take the step."""
        if largest is None:
            return self.sound
        return self._look(_Seen(largest.float(), True, epoch, iteration, self._indices))

    def first(self) -> NotFinite | None:
        """Return the first thing since the last call that was not finite; the host waits for the device."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        finite = torch.stack([seen.value for seen in pending]).isfinite().tolist()
        return next((seen.verdict() for seen, good in zip(pending, finite, strict=True) if not good), None)

    def _look(self, seen: _Seen) -> bool:
        if self._leave_out is None:
            self._pending.append(seen)
        elif self.sound and not seen.value.isfinite().item():
            self.sound = False
            self._leave_out(seen.verdict())
        return self.sound


def not_finite_weights(model: nn.Module) -> list[str]:
    """Names of the trained parameters that hold values which are not finite; the host waits once."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        return []
    finite = torch.stack([weight.detach().isfinite().all() for weight in trained.values()]).tolist()
    return [name for name, good in zip(trained, finite, strict=True) if not good]
