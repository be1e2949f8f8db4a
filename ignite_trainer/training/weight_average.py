"""An exponential moving average of the weights, for evaluation and saving."""

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
    """Moving average of a model's weights in training: after step t, `a <- d a + (1 - d) w`.

    d is `decay`, limited to (1 + t) / (10 + t) so that the first weights are soon forgotten. The average
    covers the values that training changes: trained parameters, and running statistics of norms in train
    mode. Frozen weights are not copied. The average starts from the current weights, and is updated after
    every step of `optimizer`. Within an `in_place` block, the model has the averaged weights.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan, optimizer: Optimizer, *, decay: float) -> None:
        self._weights: dict[str, Tensor] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        frozen = {module for each in plan.frozen_modules for module in each.modules()}
        for prefix, module in model.named_modules():
            if isinstance(module, _NORMS) and module not in frozen:
                buffers = module.named_buffers(prefix)
                self._weights.update((name, value) for name, value in buffers if value.is_floating_point())
        # The averages, or the model's own weights within an `in_place` block.
        self._others = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._decay = decay
        self._steps = 0
        optimizer.register_step_post_hook(lambda *_: self._follow())

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
        return {"steps": self._steps, "weights": dict(self._others)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after the averages were loaded into the model.

        Raises:
            ValueError: The state belongs to another model.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        if weights.keys() != self._others.keys():
            raise ValueError("its averages cover weights other than those of this model.")
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
        """Swap the values in place, as the optimizer and compiled code refer to these tensors."""
        for name, weight in self._weights.items():
            other = self._others[name]
            held = weight.clone()
            weight.copy_(other)
            other.copy_(held)
