"""The embeddings of a data set, written to a file of the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.task import StepOutput, Task
from utils.evaluations.collecting import FeatureCollector
from utils.evaluations.feature_files import FILE_NAME


class Features(Evaluation):
    """Write what the task embeds to `features.safetensors` (see `utils.evaluations.feature_files`).

    With `Dataset.args.fold` null that is the whole data set. Its table counts items and dimensions.
    """

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: ARG002 - the contract's
        """Take note of the data set."""
        self._collector = FeatureCollector(test, task)

    def start(self, model: nn.Module) -> None:  # noqa: ARG002
        """Forget the pass before."""
        self._collector.reset()

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:  # noqa: ARG002
        """Keep the features of a batch."""
        self._collector.add(indices, batch.labels, output.features)

    def finish(self, folder: Path) -> FigureTable:
        """Write the file; a later pass replaces it."""
        table = self._collector.table()
        table.write(folder / FILE_NAME)
        return {
            kind: {"items": float(len(features)), "dimensions": float(features.shape[1])}
            for kind, features in table.features.items()
        }
