"""Optimizer steps: gradients accumulated, scaled and completed; losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ignite_trainer.protocol.sections import Precision
from ignite_trainer.support.distributed import average_gradients
from ignite_trainer.support.errors import RunFailed

_SKIPPED_AT_MOST = 40  # consecutive steps: from 2**16, the scale then is lower than float16 could need


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Build a loss scaler that keeps float16 gradients from vanishing; it does nothing unless "fp16"."""
    return GradScaler(device.type, enabled=precision == "fp16")


class OptimizerSteps:
    """Backward passes, and the optimizer's steps on the accumulated gradients.

    If a module has a method `before_optimizer_step`, it is called when the gradients are complete and
    unscaled, before the optimizer uses them. A step whose float16 gradients overflow is skipped. `can_drop`
    copies the model's buffers before each step, as `drop` needs.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, *, can_drop: bool = False
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        self._can_drop = can_drop
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._skipped_in_succession = 0
        for module in model.modules():
            finish_gradients = getattr(module, "before_optimizer_step", None)
            if callable(finish_gradients):
                optimizer.register_step_pre_hook(lambda *_, finish=finish_gradients: finish())
        optimizer.register_step_post_hook(self._taken)

    def start(self) -> None:
        """Start a step, before its first batch."""
        if self._can_drop:
            self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._scaler.scale(loss).backward()

    def complete(self) -> None:
        """Average the gradients over all processes, after the last backward pass of a step."""
        average_gradients(weight for group in self._optimizer.param_groups for weight in group["params"])

    def take(self) -> None:
        """Take the step, and clear the gradients.

        Raises:
            RunFailed: float16 gradients overflow at any scale of the loss.
        """
        self._skipped_in_succession += 1  # until the step is taken
        self._scaler.step(self._optimizer)  # unscales first
        self._scaler.update()
        self._optimizer.zero_grad()
        if self._skipped_in_succession > _SKIPPED_AT_MOST:
            raise RunFailed(
                f"Gradients were not finite in {self._skipped_in_succession} consecutive steps, at any scale "
                'of the loss. Set Setup.precision to "bf16" or "fp32" in a new run.'
            )

    def drop(self) -> None:
        """Discard the current step; weights, buffers, optimizer and scaler stay unchanged."""
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self._optimizer.zero_grad()

    def largest_gradient(self) -> Tensor | None:
        """Return the largest gradient by magnitude, on the device; it is finite if and only if all are.

        Returns None if the loss is scaled: float16 gradients overflow now and then, and the scaler copes.
        """
        if self._scaler.is_enabled():
            return None
        given = [weight.grad for group in self._optimizer.param_groups for weight in group["params"]]
        dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in given if grad is not None]
        if any(grad.device.type != "cpu" for grad in dense):
            return torch.nn.utils.get_total_norm(dense, norm_type=math.inf)
        # On a CPU, that norm takes ten times as long as one pass over the gradients.
        extremes = [extreme for grad in dense if grad.numel() for extreme in torch.aminmax(grad)]
        return torch.stack(extremes).abs().max() if extremes else torch.tensor(0.0)

    def _taken(self, *_: object) -> None:
        self._skipped_in_succession = 0


class NotFinite(NamedTuple):
    """A loss or gradients that were not finite.

    Attributes:
        what: a clause, such as "The loss is nan".
        epoch: from 1.
        iteration: since the start of training, from 1.
        indices: positions of the samples in the data set.
    """

    what: str
    epoch: int
    iteration: int
    indices: list[int]


class StepWatch:
    """Checks the loss of every batch and the gradients of every step.

    The values stay on the device until `first` reads all of them at once, unless steps may be left out.

    Args:
        leave_out: called with each step that is to be left out; it may raise to end the run. The host then
            waits for the device twice in a step. Without it, every step is taken.
    """

    def __init__(self, leave_out: Callable[[NotFinite], None] | None = None) -> None:
        self._leave_out = leave_out
        self._pending: list[tuple[Tensor, NotFinite]] = []
        self._indices: list[int] = []
        self.finite = True

    @property
    def leaves_out(self) -> bool:
        """Whether steps may be left out."""
        return self._leave_out is not None

    def start_step(self) -> None:
        """Start a step, of one batch or of several."""
        self._indices = []
        self.finite = True

    def loss(self, value: Tensor, indices: Tensor, *, epoch: int, iteration: int) -> bool:
        """Check the loss of a batch; return whether the step is finite so far."""
        of_batch = indices.tolist()
        self._indices += of_batch
        return self._check(value.float().reshape(()), NotFinite("The loss is {}", epoch, iteration, of_batch))

    def gradients(self, largest: Tensor | None, *, epoch: int, iteration: int) -> bool:
        """Check the largest gradient unless it is None; return whether to take the step."""
        if largest is None:
            return self.finite
        what = "The gradients are not finite"
        return self._check(largest.float(), NotFinite(what, epoch, iteration, self._indices))

    def first(self) -> NotFinite | None:
        """Return the first finding since the last call; the host waits for the device."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        finite = torch.stack([value for value, _ in pending]).isfinite().tolist()
        return next((_filled_in(*each) for each, good in zip(pending, finite, strict=True) if not good), None)

    def _check(self, value: Tensor, finding: NotFinite) -> bool:
        if self._leave_out is None:
            self._pending.append((value, finding))
        elif self.finite and not value.isfinite().item():
            self.finite = False
            self._leave_out(_filled_in(value, finding))
        return self.finite


def _filled_in(value: Tensor, finding: NotFinite) -> NotFinite:
    return finding._replace(what=finding.what.format(float(value)))


def not_finite_weights(model: nn.Module) -> list[str]:
    """List the trained parameters with values that are not finite; the host waits for the device once."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        return []
    finite = torch.stack([weight.detach().isfinite().all() for weight in trained.values()]).tolist()
    return [name for name, good in zip(trained, finite, strict=True) if not good]
