"""The optimizer in its fastest form, and its steps: gradients accumulated, scaled, completed."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Precision
from ignite_trainer.support.distributed import average_gradients
from ignite_trainer.support.errors import ProtocolError, RunFailed

_SKIPPED_AT_MOST = 40  # in succession: from 2**16 the scale is then below any that float16 could need


def build_optimizer(
    kind: type[Optimizer],
    args: Mapping[str, Any],
    groups: Sequence[dict[str, Any]],
    *,
    precision: Precision = "fp32",
) -> Optimizer:
    """Build an optimizer, with a fused kernel where it has one for these parameters.

    A protocol that names `fused` or `foreach` decides for itself. Otherwise torch has chosen `foreach`
    already, where that is the faster.

    Args:
        kind: its class.
        args: arguments of the protocol, of all groups.
        groups: parameters, with the arguments of each group.
        precision: of the steps. "fp16" takes no fused kernel: that leaves a step out unseen by the host,
            after modules have worked on its gradients.

    Raises:
        ProtocolError: for arguments it cannot have.
    """
    if precision == "fp16" and args.get("fused"):
        raise ProtocolError(
            'Optimizer.args.fused is true, and Setup.precision is "fp16", where a step is left out if its '
            "gradients overflow; a fused one cannot be. Remove it, or choose bf16."
        )
    optimizer = None
    given = (args, *groups)
    named = {"fused", "foreach"} & {key for each in given for key in each}
    has_kernel = "fused" in inspect.signature(kind).parameters and precision != "fp16"
    if has_kernel and not named and not any(each.get("dampening") for each in given):
        # A RuntimeError says that there is no such kernel for this device or type of parameter; what else is
        # wrong is said below.
        with contextlib.suppress(Exception):
            # In groups of its own: torch writes into those it is given.
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
    """Give a momentum of zero to parameters that get their first gradient later than others do.

    A batch may lack what a part of the model is for. The fused kernel of SGD takes parameters that all have a
    momentum, or none of them. Without dampening the first step from zero is that from none.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        moved = [weight for weight in group["params"] if weight.grad is not None]
        late = [weight for weight in moved if optimizer.state.get(weight, {}).get("momentum_buffer") is None]
        if len(late) < len(moved):
            for weight in late:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)


class OptimizerSteps:
    """Backward passes, and the optimizer's steps on what they add up to.

    A module that has a method `before_optimizer_step` has it called when its gradients are complete and
    unscaled, before the optimizer sees them. A step whose float16 gradients overflowed is left out.

    Args:
        can_drop: keep what `drop` needs: a copy of the model's buffers, made before every step.

    Attributes:
        skipped: number of steps left out.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, *, can_drop: bool = False
    ) -> None:
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        self._can_drop = can_drop
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.skipped = 0
        self._skipped_in_succession = 0
        for module in model.modules():
            finish_gradients = getattr(module, "before_optimizer_step", None)
            if callable(finish_gradients):
                optimizer.register_step_pre_hook(lambda *_, finish=finish_gradients: finish())
        optimizer.register_step_post_hook(self._taken)

    def start(self) -> None:
        """Begin a step, before its first batch."""
        if self._can_drop:
            self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those there are."""
        self._scaler.scale(loss).backward()

    def complete(self) -> None:
        """After the last backward pass of a step: average the gradients over all processes."""
        average_gradients(weight for group in self._optimizer.param_groups for weight in group["params"])

    def take(self) -> None:
        """Take a step, and forget the gradients.

        Raises:
            RunFailed: float16 gradients overflow whatever the loss is scaled by.
        """
        self._skipped_in_succession += 1  # until it is taken
        self._scaler.step(self._optimizer)  # unscales first
        self._scaler.update()
        self._optimizer.zero_grad()
        self.skipped += self._skipped_in_succession > 0
        if self._skipped_in_succession > _SKIPPED_AT_MOST:
            raise RunFailed(
                f"Gradients were not finite in {self._skipped_in_succession} steps in succession, however "
                'the loss was scaled. Set Setup.precision to "bf16" or "fp32" in a new run.'
            )

    def drop(self) -> None:
        """Discard the current step; weights, optimizer and scaler stay unchanged.

        Buffers, such as the statistics of batch norm, follow the forward pass; they are put back.
        """
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self._optimizer.zero_grad()

    def largest_gradient(self) -> Tensor | None:
        """The largest of all gradients by magnitude, finite exactly if they all are; on the device.

        None where the loss is scaled: there gradients overflow now and then, and the scaler sees to it.
        """
        if self._scaler.is_enabled():
            return None
        given = [weight.grad for group in self._optimizer.param_groups for weight in group["params"]]
        dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in given if grad is not None]
        if any(grad.device.type != "cpu" for grad in dense):
            return torch.nn.utils.get_total_norm(dense, norm_type=math.inf)
        # On a CPU that norm takes ten times as long as to read the gradients once.
        extremes = [extreme for grad in dense if grad.numel() for extreme in torch.aminmax(grad)]
        return torch.stack(extremes).abs().max() if extremes else torch.tensor(0.0)

    def _taken(self, *_: object) -> None:
        self._skipped_in_succession = 0
