"""Points with labels and folds, and a task that embeds them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from ignite_trainer.api.task import StepOutput, Task

DIMENSIONS = 8


class Point(NamedTuple):
    """One sample; `audio` (float32 `[1, 4096]`) repeats a vector, `image` is another vector or None."""

    audio: Any
    image: Any
    labels: Any


class Points(Dataset[Point]):
    """`samples` noisy points around one centre per class, in three folds.

    With `several`, every third sample has a second label and every seventh has none.
    """

    class_names = ("dog", "rain", "siren", "never heard")
    folds = (1, 2, 3)
    results_name = "Points"
    sample_rate = 16000

    def __init__(
        self,
        *,
        train: bool = True,
        fold: int | None = None,
        samples: int = 30,
        images: bool = False,
        several: bool = False,
    ) -> None:
        rng = np.random.default_rng(0)
        self.centres = rng.normal(size=(4, DIMENSIONS)).astype(np.float32)
        noise = rng.normal(size=(2, samples, DIMENSIONS))
        around = self.centres[np.arange(samples) % 3]
        self.vectors, self.pictures = (around + 0.8 * noise).astype(np.float32)
        self.held_out = () if fold is None else (fold,)
        self.kept = [i for i in range(samples) if fold is None or (self.fold_of(i) != fold) == train]
        self._images, self._several = images, several

    @staticmethod
    def fold_of(index: int) -> int:
        return index // 3 % 3 + 1

    def labels_of(self, index: int) -> list[str]:
        if self._several and index % 7 == 0:
            return []
        second = self._several and index % 3 == 0
        return [self.class_names[index % 3], *(["siren"] if second else [])]

    def record(self, position: int) -> dict[str, str | int]:
        index = self.kept[position]
        return {"clip": f"point {index}", "fold": self.fold_of(index)}

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, position: int) -> Point:
        index = self.kept[position]
        audio = 1000 * np.tile(self.vectors[index], 4096 // DIMENSIONS)[None]
        return Point(audio, self.pictures[index] if self._images else None, self.labels_of(index))


class Embedding(Task):
    """Uses the points as embeddings; with `texts`, their centres are the embeddings of the classes."""

    gives_features = True

    def __init__(self, *, texts: bool = True, several: bool = False) -> None:
        self._texts, self._several = texts, several

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:  # noqa: ARG002
        self.class_names = test.class_names
        self._centres = torch.from_numpy(test.centres)

    def start_evaluation(self, model: nn.Module) -> None:  # noqa: ARG002
        centres = functional.normalize(self._centres, dim=-1)
        if self._texts:
            self.class_features = centres
        self._scored_by = centres

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        raise NotImplementedError

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:  # noqa: ARG002
        audio = functional.normalize(batch.audio[:, 0, :DIMENSIONS], dim=-1)
        features = {"audio": audio}
        if batch.image is not None:
            features["image"] = functional.normalize(batch.image, dim=-1)
        return StepOutput(audio @ self._scored_by.T, self._targets(batch.labels), features=features)

    def _targets(self, labels: list[list[str]]) -> Tensor:
        rows = torch.tensor([[int(name in sample) for name in self.class_names] for sample in labels])
        return rows if self._several else rows.argmax(dim=1)


class Mute(Embedding):
    """Returns scores without features."""

    gives_features = False

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        return super().evaluation_step(model, batch)._replace(features=None)
