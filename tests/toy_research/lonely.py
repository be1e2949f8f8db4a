"""Samples that often lack a sound, a model with batch norm only for sounds, and tasks that find faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from ignite_trainer.api.batch import PaddedBatch, PartialBatch, collate, field_values, rows_with_field
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import EmbeddingTask, StepOutput
from ignite_trainer.data.loader import Batch
from toy_research.learning import Matching

LENGTH = 4


class Scene(NamedTuple):
    """One sample; `sound` and `picture` are `[4]`, and `sound` may be missing."""

    sound: Any
    picture: Any
    target: Any


class Scenes(Dataset[Scene]):
    """Scenes; one in `every` has a sound."""

    folds = (1, 2)

    def __init__(
        self, *, train: bool = True, fold: int = 1, samples: int = 24, every: int = 6, dtype: str = "float32"
    ) -> None:
        self.held_out, self.every, self._dtype = (fold,), every, dtype
        self._seeds = [2 * number + int(train) for number in range(samples)]

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> Scene:
        random = np.random.default_rng(self._seeds[index])
        sound, picture = random.normal(size=(2, LENGTH)).astype(self._dtype)
        return Scene(sound if index % self.every == 0 else None, picture, index % 3)


def batch_of(*indices: int, dtype: str = "float32") -> Batch:
    """Collate some scenes as a loader does; all sounds and images have the same length."""
    scenes = collate([Scenes(dtype=dtype)[index] for index in indices])
    fields = []
    for field in scenes:
        values = field_values(field)
        values = values.values if isinstance(values, PaddedBatch) else values
        fields.append(field._replace(values=values) if isinstance(field, PartialBatch) else values)
    return Batch(torch.tensor(indices), Scene(*fields))


class SoundAndPicture(nn.Module):
    """A tower with batch norm for sounds, and one without for images."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = nn.Sequential(nn.Linear(LENGTH, 3), nn.BatchNorm1d(3))
        self.picture = nn.Linear(LENGTH, 3)


class Scoring(EmbeddingTask):
    """Cross-entropy of the scores of images plus those of sounds, where a sample has one."""

    class_names = ("low", "middle", "high")

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        assert isinstance(model, SoundAndPicture)
        found = {}
        for name in ("sound", "picture"):
            values = field_values(getattr(batch, name))
            if values is not None:
                found[name] = getattr(model, name)(values if isinstance(values, Tensor) else values.values)
        return found

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:  # noqa: ARG002
        scores = embeddings["picture"]
        if "sound" in embeddings:
            rows = rows_with_field(batch.sound, len(scores))
            scores = scores.index_add(0, rows, embeddings["sound"])
        return StepOutput(scores, batch.target, functional.cross_entropy(scores, batch.target))

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        return self.compare(model, self.embed(model, batch), batch)._replace(loss=None)


class Finicky(Matching):
    """Reports a given number of findings about the samples."""

    def __init__(self, *, errors: int = 0, warnings: int = 0) -> None:
        super().__init__()
        self._told = {"error": errors, "warning": warnings}

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterable[Finding]:
        del model, train_is_scored
        assert len(train) > len(test)
        for number in range(self._told["error"]):
            yield Finding(
                severity="error", what="A tone is flat.", where=f"tones.csv, line {number}", remedy="Tune it."
            )
        for number in range(self._told["warning"]):
            yield Finding(severity="warning", what="A tone is sharp.", where=f"tone {number}")


class ForTraining(Matching):
    """Reports an error if a training split is used or scored."""

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterable[Finding]:
        del model, test
        if train is not None:
            yield Finding(severity="error", what="There is a training split.")
            if train_is_scored:
                yield Finding(severity="error", what="It is scored.")
