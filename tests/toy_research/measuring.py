"""Something measured beside the metrics: what the model is sure of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.task import StepOutput, Task
from toy_research.learning import Matching


class Confidence(Evaluation):
    """Mean of the highest probability, by target; writes which samples it saw into the run's folder."""

    def __init__(self, *, fail: bool = False) -> None:
        self._fail = fail

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:
        if not isinstance(task, Matching):
            raise ValueError(f"confidence is of Matching, not of {type(task).__name__} of {model}.")
        self._samples = len(test)

    def start(self, model: nn.Module) -> None:
        assert not model.training
        self._seen: list[int] = []
        self._highest: dict[str, list[float]] = {}

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        assert torch.is_inference_mode_enabled()
        assert not model.training
        self._seen += indices.tolist()
        for target, scores in zip(batch.target.tolist(), output.y_pred, strict=True):
            self._highest.setdefault(f"target {target}", []).append(float(scores.softmax(-1).max()))

    def finish(self, folder: Path) -> FigureTable:
        if self._fail:
            raise ValueError("nothing to be confident of.")
        assert len(self._seen) == self._samples
        (folder / "seen.txt").write_text(" ".join(map(str, self._seen)))
        return {
            row: {"mean": sum(values) / len(values), "samples": float(len(values))}
            for row, values in sorted(self._highest.items())
        }
