"""Clips with any number of captions, as random embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ignite_trainer.api.task import StepOutput

MODEL = nn.Identity()
Vectors = NDArray[np.float32]


class Problem:
    """Clips with random unit embeddings of their sound and of each caption."""

    def __init__(self, seed: int, counts: Sequence[int]) -> None:
        random = np.random.default_rng(seed)
        self.owners = np.repeat(np.arange(len(counts)), counts)
        centres = random.normal(size=(len(counts), 6))
        self.audio = unit(centres + 0.7 * random.normal(size=centres.shape))
        self.captions = unit(centres[self.owners] + random.normal(size=(len(self.owners), 6)))
        self.order = random.permutation(len(counts))

    def collect(self, evaluation: Any, batch_size: int) -> Any:
        """Give an evaluation the clips in random order, in batches."""
        data = SimpleNamespace(class_names=(), record=lambda index: {"clip": f"clip {index}"})
        evaluation.prepare(MODEL, SimpleNamespace(gives_features=True), test=data)
        evaluation.start(MODEL)
        for indices, output in self.batches(batch_size):
            evaluation.step(MODEL, torch.from_numpy(indices), SimpleNamespace(labels=None), output)
        return evaluation

    def give(self, update: Callable[[StepOutput], None], batch_size: int) -> None:
        """Give a metric the clips in random order, in batches."""
        for _, output in self.batches(batch_size):
            update(output)

    def batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.int64], StepOutput]]:
        """Yield the indices of clips and their features."""
        for start in range(0, len(self.order), batch_size):
            indices = self.order[start : start + batch_size]
            rows = [np.flatnonzero(self.owners == index) for index in indices]
            audio = torch.from_numpy(self.audio[indices])
            text = torch.from_numpy(self.captions[np.concatenate(rows)])
            yield (
                indices,
                StepOutput(
                    torch.zeros(len(indices)),
                    torch.zeros(len(indices)),
                    features={"audio": audio, "text": text},
                    counts={"text": torch.tensor([len(of_clip) for of_clip in rows])},
                ),
            )


def unit(vectors: NDArray[np.float64]) -> Vectors:
    result: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result
