"""The interface of evaluations: measurements on the held-out split in addition to the metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ignite_trainer.api.task import StepOutput, Task

FigureTable = Mapping[str, Mapping[str, float]]
"""Figures by row and column, for example by direction of retrieval and by metric."""


class Evaluation(ABC):
    """An entry of the protocol's `Evaluations`: it sees every batch of a pass, then returns figures.

    ```text
    prepare    once, before the first step of the run
    start      before each pass over the held-out split; in eval mode, without gradient
    step       after the task's evaluation step on each batch; likewise
    finish     after the last batch
    ```
    """

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: B027
        """Check model, task and held-out data set; raise a ValueError if they do not fit."""

    def start(self, model: nn.Module) -> None:  # noqa: B027
        """Discard the previous pass; compute what all steps share."""

    @abstractmethod
    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        """Process a batch.

        Args:
            model: the model, in eval mode.
            indices: int64 `[B]`, on the CPU: positions of the samples in the held-out data set.
            batch: the samples, as in the task's step.
            output: output of the task's evaluation step.
        """

    @abstractmethod
    def finish(self, folder: Path) -> FigureTable:
        """Return the figures of the pass; write any files into `folder`, the folder of the run."""
