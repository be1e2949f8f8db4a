"""Averages of the weights, for evaluation and saving: a moving average, or a mean over epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ignite_trainer.protocol.setup_section import Setup
from ignite_trainer.training.parameters import ParameterPlan

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


class WeightAverage:
    """Average of a model's weights in training.

    The average covers the values that training changes: trained parameters, and running statistics of norms
    in train mode. Frozen weights are not copied. Within an `in_place` block, the model has the averaged
    weights; before the average has begun, it keeps its own.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan) -> None:
        self._weights: dict[str, Tensor] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        frozen = {module for each in plan.frozen_modules for module in each.modules()}
        for prefix, module in model.named_modules():
            if isinstance(module, _NORMS) and module not in frozen:
                buffers = module.named_buffers(prefix)
                self._weights.update((name, value) for name, value in buffers if value.is_floating_point())
        # The averages, or the model's own weights within an `in_place` block.
        # Empty until the average begins.
        self._others: dict[str, Tensor] = {}
        self._updates = 0

    def finish_epoch(self, epoch: int) -> None:
        """Update the average after an epoch, from 1; a second call for the same epoch has no effect."""

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights within a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that training continues from; the model itself is saved with the averages."""
        return {"steps": self._updates, "weights": dict(self._others)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after the averages were loaded into the model.

        Raises:
            ValueError: The state belongs to another model.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        begun = self._others or state["steps"]
        if weights.keys() != (self._weights if begun else {}).keys():
            raise ValueError("its averages cover weights other than those of this model.")
        self._updates = int(state["steps"])
        if begun:
            self._begin()
        for name, weight in self._others.items():
            weight.copy_(weights[name])
        self._swap()

    def _begin(self) -> None:
        self._others = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def _average(self, function: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        """Update the averages by one of torch's functions, which take tensors of the same dtype."""
        for dtype in {weight.dtype for weight in self._weights.values()}:
            names = [name for name, weight in self._weights.items() if weight.dtype == dtype]
            averages, weights = ([of[name] for name in names] for of in (self._others, self._weights))
            function(averages, weights, self._updates)
        self._updates += 1

    @torch.no_grad()
    def _swap(self) -> None:
        """Swap the values in place, as the optimizer and compiled code refer to these tensors."""
        for name, other in self._others.items():
            weight = self._weights[name]
            held = weight.clone()
            weight.copy_(other)
            other.copy_(held)


class MovingAverage(WeightAverage):
    """Exponential moving average: after step t, `a <- d a + (1 - d) w`.

    d is `decay`, limited to (1 + t) / (10 + t) so that the first weights are soon forgotten. The average
    starts from the current weights, and is updated after every step of `optimizer`.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan, optimizer: Optimizer, *, decay: float) -> None:
        super().__init__(model, plan)
        self._decay = decay
        self._begin()
        optimizer.register_step_post_hook(lambda *_: self._follow())

    def _follow(self) -> None:
        step = self._updates + 1
        self._average(get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step))))


class EpochAverage(WeightAverage):
    """Equal mean of the weights after each epoch from `first_epoch` on.

    This is stochastic weight averaging (Izmailov et al., arXiv 1803.05407, algorithm 1). The running
    statistics of batch norm are averaged like weights, instead of being computed anew by another pass over
    the training data, as in the paper.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan, *, first_epoch: int) -> None:
        super().__init__(model, plan)
        self._first_epoch = first_epoch

    def finish_epoch(self, epoch: int) -> None:
        """Include the weights after an epoch, unless it is too early or already included."""
        if epoch - self._first_epoch < self._updates:
            return
        if not self._others:
            self._begin()
        self._average(get_swa_multi_avg_fn())


def average_weights(
    setup: Setup, model: nn.Module, plan: ParameterPlan, optimizer: Optimizer
) -> WeightAverage | None:
    """Return the average that `Setup` asks for, or None."""
    if setup.first_averaged_epoch is not None:
        return EpochAverage(model, plan, first_epoch=setup.first_averaged_epoch)
    return MovingAverage(model, plan, optimizer, decay=setup.ema) if setup.ema else None
