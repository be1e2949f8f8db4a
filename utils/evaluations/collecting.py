"""The features of a pass over a data set, batch by batch into one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignite_trainer.api.batch import rows_of, values_of
from ignite_trainer.api.self_description import record, results_name
from ignite_trainer.api.task import Task
from utils.evaluations.feature_files import FeatureTable


class FeatureCollector:
    """Gathers features in memory, float32 on the CPU.

    Args:
        dataset: what is passed over; `class_names`, `record` and `results_name` are its own, if it has them.
        task: whose features they are.

    Raises:
        ValueError: the task gives no features.
    """

    def __init__(self, dataset: Any, task: Task) -> None:
        if not task.gives_features:
            raise ValueError(
                f"{type(task).__name__} gives no features of its samples; choose a task that does, such as "
                "utils.tasks.AudioTextContrastive."
            )
        self._dataset = dataset
        self.reset()

    def reset(self) -> None:
        """Forget what was gathered."""
        self._indices: list[int] = []
        self._labels: list[tuple[str, ...]] = []
        self._features: dict[str, list[Tensor]] = {}

    def add(self, indices: Tensor, labels: Any, features: Mapping[str, Tensor] | None) -> None:
        """Keep a batch.

        Args:
            indices: positions of the samples in the data set, int64 `[B]`.
            labels: of the samples, as a batch has them; some or all samples may have none.
            features: `[B, D]` by kind, on any device; those of a task's step.

        Raises:
            ValueError: they are of other kinds than in the batches before.
        """
        assert features, "the task gives features"
        if self._indices and self._features.keys() != features.keys():
            raise ValueError(
                f"the samples before {int(indices[0])} have features of {' and '.join(self._features)}, the "
                f"following of {' and '.join(features)}; all samples need the same."
            )
        self._indices += indices.tolist()
        of_batch: list[tuple[str, ...]] = [()] * len(indices)
        for row, of_sample in zip(
            rows_of(labels, len(indices)).tolist(), values_of(labels) or (), strict=True
        ):
            of_batch[row] = tuple(of_sample)
        self._labels += of_batch
        for kind, values in features.items():
            self._features.setdefault(kind, []).append(values.detach().float().cpu())

    def table(self) -> FeatureTable:
        """Put all batches together, in the data set's order."""
        order = np.argsort(self._indices, kind="stable")
        indices = [self._indices[at] for at in order]
        records = [record(self._dataset, index) for index in indices]
        names = [known.get("clip", index) for known, index in zip(records, indices, strict=True)]
        in_folds = all("fold" in known for known in records)
        return FeatureTable(
            features={kind: torch.cat(batches).numpy()[order] for kind, batches in self._features.items()},
            clips=tuple(map(str, names)),
            labels=tuple(self._labels[at] for at in order),
            class_names=tuple(getattr(self._dataset, "class_names", ())),
            dataset=results_name(self._dataset),
            folds=np.array([known["fold"] for known in records], dtype=np.int64) if in_folds else None,
        )
