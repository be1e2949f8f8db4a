"""Interface for evaluations: measurements on the held-out split in addition to the metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ignite_trainer.api.task import StepOutput, Task

FigureTable = Mapping[str, Mapping[str, float]]
"""Values by row and column, for example by retrieval direction and metric."""


class Evaluation(ABC):
    """An entry in the protocol's `Evaluations`.

    It receives every batch of a pass over the held-out split, then returns values.

    ```text
    prepare    once, before the first step of the run
    start      before each pass; in eval mode, without gradients
    step       after the task's evaluation step on each batch; in eval mode, without gradients
    finish     after the last batch
    ```
    """

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: B027
        """Check the model, task and held-out data set; raise a ValueError if they are incompatible."""

    def start(self, model: nn.Module) -> None:  # noqa: B027
        """Discard the results of the previous pass; compute values that all steps share."""

    @abstractmethod
    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        """Process a batch.

        Args:
            model: model in eval mode.
            indices: positions of the samples in the held-out data set, int64 `[B]`, on the CPU.
            batch: collated samples, as the task's step receives them.
            output: output of the task's evaluation step.
        """

    @abstractmethod
    def finish(self, folder: Path) -> FigureTable:
        """Return the values for this pass; write any files to `folder`, the run's folder."""
