"""Evaluations that collect a task's features in a pass over a data set, and the one that stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ignite_trainer.api.batch import field_values, rows_with_field
from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.self_description import record, results_name
from ignite_trainer.api.task import StepOutput, Task
from utils.datasets.sample import TEST, TRAIN, VALIDATION
from utils.evaluations.feature_files import FILE_NAME, FeatureTable


class CollectingEvaluation(Evaluation):
    """Base class of evaluations that collect the task's features in memory, float32 on the CPU.

    Uses the `class_names`, `record` and `results_name` of the data set, if it has them.
    """

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: ARG002
        """Check that the task computes features."""
        if not task.gives_features:
            raise ValueError(
                f"{type(task).__name__} gives no features of its samples; choose a task that does, such as "
                "utils.tasks.AudioTextContrastive."
            )
        self._dataset = test

    def start(self, model: nn.Module) -> None:  # noqa: ARG002
        """Discard the features from an earlier pass."""
        self._indices: list[int] = []
        self._labels: list[tuple[str, ...]] = []
        self._features: dict[str, list[Tensor]] = {}
        self._counts: dict[str, list[Tensor]] = {}

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:  # noqa: ARG002
        """Collect the features of a batch; raise ValueError if their kinds differ from earlier batches."""
        features = output.features
        assert features, "the task gives features"
        if self._indices and self._features.keys() != features.keys():
            raise ValueError(
                f"the samples before {int(indices[0])} have features of {' and '.join(self._features)}, the "
                f"following of {' and '.join(features)}; all samples need the same."
            )
        labels: list[tuple[str, ...]] = [()] * len(indices)
        rows = rows_with_field(batch.labels, len(indices)).tolist()
        for row, of_sample in zip(rows, field_values(batch.labels) or (), strict=True):
            labels[row] = tuple(of_sample)
        self._indices += indices.tolist()
        self._labels += labels
        for kind, values in features.items():
            self._features.setdefault(kind, []).append(values.detach().float().cpu())
        for kind, counts in (output.counts or {}).items():
            self._counts.setdefault(kind, []).append(counts.cpu())

    def table(self) -> FeatureTable:
        """Return the features of all batches, in the data set's order."""
        order = np.argsort(self._indices, kind="stable")
        place = np.argsort(order)  # of each collected sample in the table
        features = {kind: torch.cat(batches).numpy() for kind, batches in self._features.items()}
        clips_of = dict[str, NDArray[np.int64]]()
        for kind, values in features.items():
            if kind not in self._counts:
                features[kind] = values[order]
                continue
            counts = torch.cat(self._counts[kind]).numpy()
            owners = place.repeat(counts)  # the clip of each row
            if counts.max() > 1:
                rows = np.argsort(owners, kind="stable")
                features[kind], clips_of[kind] = values[rows], owners[rows]
            else:
                features[kind] = np.full((len(order), values.shape[1]), np.nan, np.float32)
                features[kind][owners] = values
        indices = [self._indices[at] for at in order]
        records = [record(self._dataset, index) for index in indices]
        names = [known.get("clip", index) for known, index in zip(records, indices, strict=True)]
        in_folds = all("fold" in known for known in records)
        in_splits = all(known.get("split") in (TRAIN, VALIDATION, TEST) for known in records)
        return FeatureTable(
            features=features,
            clips_of=clips_of,
            clips=tuple(map(str, names)),
            labels=tuple(self._labels[at] for at in order),
            class_names=tuple(getattr(self._dataset, "class_names", ())),
            dataset=results_name(self._dataset),
            folds=np.array([known["fold"] for known in records], dtype=np.int64) if in_folds else None,
            splits=tuple(str(known["split"]) for known in records) if in_splits else None,
        )


class Features(CollectingEvaluation):
    """Write the task's features to `features.safetensors` (see `utils.evaluations.feature_files`).

    Clips that have several captions have as many rows of text features.

    If `Dataset.args.fold` is null, or `Dataset.args.whole` is true, these are the features of the whole data
    set. The resulting table has the numbers of samples and dimensions.
    """

    def finish(self, folder: Path) -> FigureTable:
        """Write the file, replacing the file from an earlier pass."""
        table = self.table()
        table.write(folder / FILE_NAME)
        return {
            kind: {"items": float(len(features)), "dimensions": float(features.shape[1])}
            for kind, features in table.features.items()
        }
