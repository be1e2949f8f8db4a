"""An exponential moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ignite_trainer.training.parameters import ParameterPlan

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


class WeightAverage:
    """Follows the weights of a model that is trained: after step t `a <- d a + (1 - d) w`.

    d is `decay`, but at most (1 + t) / (10 + t): so the first weights are soon forgotten. Averaged is what
    training moves: parameters with gradient, and running statistics of norms in train mode. What is frozen is
    not copied.

    Between steps the model has its own weights; within a block of `in_place` it has the averages.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan, optimizer: Optimizer, *, decay: float) -> None:
        """Begin with the weights as they are, and follow every step that `optimizer` takes."""
        self._weights: dict[str, Tensor] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        frozen = {module for each in plan.frozen_modules for module in each.modules()}
        for prefix, module in model.named_modules():
            if isinstance(module, _NORMS) and module not in frozen:
                buffers = module.named_buffers(prefix)
                self._weights.update((name, one) for name, one in buffers if one.is_floating_point())
        # What is not in the model: the averages, or in a block the model's own weights.
        self._others = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._decay, self._steps = decay, 0
        optimizer.register_step_post_hook(lambda *_: self._follow())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averages, and its own weights back at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """What belongs to a state whose model was saved with the averages: the weights to go on with."""
        return {"steps": self._steps, "weights": dict(self._others)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, after the model was given the averages that it was saved with.

        Raises:
            ValueError: it is of another model.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        if weights.keys() != self._others.keys():
            raise ValueError("its averages are of other weights.")
        self._steps = int(state["steps"])
        for name, weight in self._others.items():
            weight.copy_(weights[name])
        self._swap()

    def _follow(self) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        average = get_ema_multi_avg_fn(decay)
        for dtype in {weight.dtype for weight in self._weights.values()}:
            names = [name for name, weight in self._weights.items() if weight.dtype == dtype]
            average([self._others[name] for name in names], [self._weights[name] for name in names], 0)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange values, not tensors, which optimizer and compiled code hold."""
        for name, weight in self._weights.items():
            other = self._others[name]
            held = weight.clone()
            weight.copy_(other)
            other.copy_(held)
