"""A task that compares embeddings: each signal is to find its own class among those of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignite_trainer.api.task import EmbeddingTask, StepOutput
from toy_research.network import TwoTowers


class Pairing(EmbeddingTask):
    """Cross-entropy of the cosines of signals and classes, along rows.

    `named_only` leaves out the classes of the samples of class 0: they have no such embedding. `explode_at`
    makes the loss of that step not finite; `most` samples fit into memory at a time.
    """

    class_names = ("low", "middle", "high")

    def __init__(
        self, *, named_only: bool = False, explode_at: int | None = None, most: int | None = None
    ) -> None:
        self._named_only, self._explode_at, self._most = named_only, explode_at, most
        self._steps = 0

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        assert isinstance(model, TwoTowers)
        if self._most is not None and len(batch.target) > self._most:
            torch.empty(2**50, dtype=torch.uint8)
        embeddings = {"signal": functional.normalize(model.left(batch.signal.flatten(1)), dim=-1)}
        named = batch.target[batch.target > 0] if self._named_only else batch.target
        if len(named):
            embeddings["class"] = model.right(model.classes[named])
        return embeddings

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        assert isinstance(model, TwoTowers)
        self._steps += 1
        rows = embeddings["signal"][batch.target > 0] if self._named_only else embeddings["signal"]
        scores = model.scale.exp() * rows @ embeddings["class"].T
        own = torch.arange(len(scores))
        penalty = next(model.left.parameters()).square().mean()  # of parameters alone
        loss = functional.cross_entropy(scores, own) + 0.1 * penalty
        return StepOutput(scores, own, loss * (torch.inf if self._steps == self._explode_at else 1))

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        return StepOutput(model(batch.signal), batch.target)
