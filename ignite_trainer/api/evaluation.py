"""The contract between the trainer and what is measured on the held-out split besides the metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ignite_trainer.api.task import StepOutput, Task

FigureTable = Mapping[str, Mapping[str, float]]
"""Figures by row and column, such as by direction of retrieval and by metric."""


class Evaluation(ABC):
    """An entry of the protocol's `Evaluations`: it sees every batch of a pass, then says what it found.

    ```text
    prepare    once, before the first step of the run
    start      before a pass over the held-out split, in eval mode without gradient
    step       for every batch of it, after the task's evaluation step, likewise
    finish     after the last batch
    ```
    """

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: B027
        """Look at model, task and held-out data set once; raise a ValueError on what cannot work."""

    def start(self, model: nn.Module) -> None:  # noqa: B027
        """Forget the pass before; compute what all steps share."""

    @abstractmethod
    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        """Take note of a batch.

        Args:
            model: in eval mode.
            indices: positions of the samples in the held-out data set, int64 `[B]`, on the CPU.
            batch: the samples, as the task's step has them.
            output: what the task made of them.
        """

    @abstractmethod
    def finish(self, folder: Path) -> FigureTable:
        """Return the figures of the pass; files that belong to them go into `folder`, the run's own."""
