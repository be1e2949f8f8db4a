"""Optimizer steps on accumulated and scaled gradients, and checks for non-finite losses and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ignite_trainer.protocol.sections import Precision
from ignite_trainer.support.distributed import average_gradients
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.training.parameters import GradientLimit

_MAX_CONSECUTIVE_SKIPS = 40  # brings the scale from 2**16 to less than float16 could need


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Build a loss scaler that keeps float16 gradients from vanishing; it is disabled except for "fp16"."""
    return GradScaler(device.type, enabled=precision == "fp16")


class OptimizerSteps:
    """Backward passes, and optimizer steps on the accumulated gradients.

    If a module has a method `before_optimizer_step`, this method is called when the gradients are complete
    and unscaled, before the optimizer uses them. The gradients are limited after that, for each rule by
    itself, because a module may give its gradients any scale, which would dominate the norm of all others. A
    step whose float16 gradients overflow is skipped. With `can_drop`, the model's buffers are copied before
    each step, as `drop` requires.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: GradScaler,
        *,
        limits: Sequence[GradientLimit] = (),
        can_drop: bool = False,
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
        self._limits = limits
        optimizer.register_step_pre_hook(self._limit_gradients)
        optimizer.register_step_post_hook(self._taken)

    def start(self) -> None:
        """Start a step, before its first batch."""
        if self._can_drop:
            self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss, adding to the gradients."""
        self._scaler.scale(loss).backward()

    def complete(self) -> None:
        """Average the gradients over all processes, after the last backward pass of a step."""
        average_gradients(weight for group in self._optimizer.param_groups for weight in group["params"])

    def take(self) -> None:
        """Take the step, and clear the gradients.

        Raises:
            RunFailed: Float16 gradients overflow at every loss scale.
        """
        self._skipped_in_succession += 1  # until the step is taken
        self._scaler.step(self._optimizer)  # unscales first
        self._scaler.update()
        self._optimizer.zero_grad()
        if self._skipped_in_succession > _MAX_CONSECUTIVE_SKIPS:
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
        """Return the largest absolute gradient, on the device; it is finite if and only if all gradients are.

        Return None if the loss is scaled: float16 gradients overflow now and then, and the scaler handles it.
        """
        if self._scaler.is_enabled():
            return None
        given = [weight.grad for group in self._optimizer.param_groups for weight in group["params"]]
        dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in given if grad is not None]
        if any(grad.device.type != "cpu" for grad in dense):
            return torch.nn.utils.get_total_norm(dense, norm_type=math.inf)
        # On a CPU, this norm takes ten times as long as one pass over the gradients.
        extremes = [extreme for grad in dense if grad.numel() for extreme in torch.aminmax(grad)]
        return torch.stack(extremes).abs().max() if extremes else torch.tensor(0.0)

    def _limit_gradients(self, *_: object) -> None:
        for parameters, max_norm in self._limits:
            clip_grad_norm_(parameters, max_norm)

    def _taken(self, *_: object) -> None:
        self._skipped_in_succession = 0


class NonFinite(NamedTuple):
    """A non-finite loss or gradient, and where it occurred.

    Attributes:
        what: description, such as "The loss is nan".
        epoch: epoch of the step, from 1.
        iteration: number of the batch since the start of training, from 1.
        indices: positions of the step's samples in the data set.
    """

    what: str
    epoch: int
    iteration: int
    indices: list[int]


class StepWatch:
    """Checks the loss of every batch and the gradients of every step.

    The values stay on the device until `first` reads all of them at once, unless steps may be skipped.

    Args:
        skip: callback with the finding for each step to skip; it may raise an error to end the run. With
            this callback, the host waits for the device twice in a step. Without it, every step is taken.
    """

    def __init__(self, skip: Callable[[NonFinite], None] | None = None) -> None:
        self._skip = skip
        self._pending: list[tuple[Tensor, NonFinite]] = []
        self._indices: list[int] = []
        self.finite = True

    @property
    def can_skip(self) -> bool:
        """True if steps may be skipped."""
        return self._skip is not None

    def start_step(self) -> None:
        """Start a step, which consists of one or more batches."""
        self._indices = []
        self.finite = True

    def loss(self, value: Tensor, indices: Tensor, *, epoch: int, iteration: int) -> bool:
        """Check the loss of a batch; return whether the step is finite so far."""
        positions = indices.tolist()
        self._indices += positions
        finding = NonFinite("The loss is {}", epoch, iteration, positions)
        return self._check(value.float().reshape(()), finding)

    def gradients(self, largest: Tensor | None, *, epoch: int, iteration: int) -> bool:
        """Check the largest gradient unless it is None; return whether to take the step."""
        if largest is None:
            return self.finite
        what = "The gradients are not finite"
        return self._check(largest.float(), NonFinite(what, epoch, iteration, self._indices))

    def first(self) -> NonFinite | None:
        """Return the first finding since the last call; the host waits for the device."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        finite = torch.stack([value for value, _ in pending]).isfinite().tolist()
        return next((_filled_in(*each) for each, good in zip(pending, finite, strict=True) if not good), None)

    def _check(self, value: Tensor, finding: NonFinite) -> bool:
        if self._skip is None:
            self._pending.append((value, finding))
        elif self.finite and not value.isfinite().item():
            self.finite = False
            self._skip(_filled_in(value, finding))
        return self.finite


def _filled_in(value: Tensor, finding: NonFinite) -> NonFinite:
    return finding._replace(what=finding.what.format(float(value)))


def non_finite_weights(model: nn.Module) -> list[str]:
    """List the trained parameters with non-finite values; the host waits for the device once."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        return []
    finite = torch.stack([weight.detach().isfinite().all() for weight in trained.values()]).tolist()
    return [name for name, good in zip(trained, finite, strict=True) if not good]
