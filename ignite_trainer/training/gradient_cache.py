"""Gradients of a loss over a whole batch, with the activations of a part of it in memory at a time.

```text
1  embed       part by part, without gradient      -> the embeddings of the whole batch
2  compare     them, with gradient                 -> the loss, and its gradient by each embedding
3  embed       part by part, with gradient;        -> the gradient by each parameter
               a part's backward pass begins at the gradients by its embeddings
```

Source: Gao et al., arXiv 2101.06983. It costs one more forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ignite_trainer.api.batch import part_of
from ignite_trainer.api.task import EmbeddingTask, Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.profiling import phase
from ignite_trainer.training.distributed_steps import Joint, comparison
from ignite_trainer.training.precision import autocast


@dataclass(frozen=True)
class _Part:
    """A part of a batch: its samples, the random states before they were embedded, rows of its embeddings."""

    sample: Any
    random: list[Tensor]
    rows: Mapping[str, slice]


class GradientCache:
    """Carries out the training steps of a task, part by part, as if the batch were embedded as a whole.

    Where every sample is embedded by itself, loss and gradients are those of the whole batch but for
    rounding. Batch norm in train mode is the exception: it normalises each part by itself, and its running
    statistics move once for every part. Both passes through a part draw the same random numbers and begin
    with the same buffers, and what a step leaves of either is as if there were one pass.

    Between `forward` and `backward` comes the backward pass of the loss.
    """

    def __init__(self, task: EmbeddingTask, model: nn.Module, setup: Setup, *, device: torch.device) -> None:
        """Prepare the steps of `task`; `setup.chunk` is the largest part."""
        self._task = task
        self._model = model
        self._setup = setup
        self._device = device
        self._parts: list[_Part] = []
        self._embeddings: dict[str, Tensor] = {}
        self._buffers: list[Tensor] = []

    def forward(self, batch: Batch) -> Joint:
        """Return what a step over a batch gives; its loss has gradient."""
        self._buffers = self._copied_buffers()
        self._parts, self._embeddings = [], {}
        embedded: dict[str, list[Tensor]] = {}
        for part in parts_of(len(batch.indices), self._setup, self._task):
            samples, random = part_of(batch.sample, part), self._random()
            # Parameters as 16-bit numbers are kept as long as a block of autocast lasts, and of this one
            # without their gradient.
            with torch.no_grad(), autocast(self._setup.precision, self._device):
                embeddings = self._task.embed(self._model, samples)
            rows = {}
            for name, values in embeddings.items():
                before = sum(map(len, embedded.setdefault(name, [])))
                rows[name] = slice(before, before + len(values))
                embedded[name].append(values)
            self._parts.append(_Part(samples, random, rows))
        self._embeddings = {
            name: torch.cat(values).requires_grad_(values[0].is_floating_point())
            for name, values in embedded.items()
        }
        with autocast(self._setup.precision, self._device):
            return comparison(self._task, self._model, self._embeddings, batch)

    def backward(self) -> None:
        """Add the gradients by the parameters behind the embeddings, after the backward pass of the loss."""
        gradients = {
            name: values.grad for name, values in self._embeddings.items() if values.grad is not None
        }
        parts, self._parts, self._embeddings = self._parts, [], {}
        if not gradients:
            return
        random, buffers = self._random(), self._copied_buffers()
        self._put_buffers(self._buffers)
        for part in parts:
            self._put_random(part.random)
            with autocast(self._setup.precision, self._device):
                embeddings = self._task.embed(self._model, part.sample)
            learned = [name for name in gradients if name in embeddings and embeddings[name].requires_grad]
            if learned:
                with phase("backward"):
                    torch.autograd.backward(
                        [embeddings[name] for name in learned],
                        [gradients[name][part.rows[name]] for name in learned],
                    )
        self._put_random(random)
        self._put_buffers(buffers)

    def _random(self) -> list[Tensor]:
        """The states of the generators that modules draw from."""
        on_cuda = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_cuda]

    def _put_random(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)

    def _moving_buffers(self) -> list[Tensor]:
        """Those of modules in train mode: running statistics, mostly."""
        training = (module for module in self._model.modules() if module.training)
        return [buffer for module in training for buffer in module.buffers(recurse=False)]

    def _copied_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._moving_buffers()]

    @torch.no_grad()
    def _put_buffers(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._moving_buffers(), values, strict=True):
            buffer.copy_(value)


def parts_of(samples: int, setup: Setup, task: Task) -> list[slice]:
    """Cut a process's batch into the parts that go through the model together.

    They differ by one sample at most, since batch norm needs several. Their number depends on the usual batch
    size: all processes, which may have to wait for each other in each part, have equally many, unless a batch
    has fewer samples.
    """
    count = 1
    if isinstance(task, EmbeddingTask) and setup.chunk:
        usual = math.ceil(setup.batch_of_all(world_size(), train=True) / world_size())
        count = max(1, min(samples, math.ceil(max(usual, samples) / setup.chunk)))
    ends = [samples * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]
