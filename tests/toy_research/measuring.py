"""An evaluation, and speed baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.task import StepOutput, Task
from ignite_trainer.api.yardstick import Yardstick
from toy_research.learning import Matching


class Confidence(Evaluation):
    """Mean of the highest probability, by target; writes the samples it saw to the run's folder."""

    def __init__(self, *, fail: bool = False) -> None:
        self._fail = fail

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: ARG002
        if not isinstance(task, Matching):
            raise ValueError(f"confidence needs Matching, not {type(task).__name__}.")
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


class Asleep(Yardstick):
    """A baseline that does the same work and sleeps for some seconds in every step."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        task = {"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": self._seconds}}
        return {**protocol, "Task": task, "Yardsticks": {}}


class SleepyMatching(Matching):
    """A task that sleeps in every step."""

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        time.sleep(self._seconds)
        return super().training_step(model, batch)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        time.sleep(self._seconds)
        return super().evaluation_step(model, batch)


class Recomputing(Yardstick):
    """A baseline that recomputes activations, which not every model supports."""

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        return {**protocol, "Setup": {**protocol["Setup"], "recompute": True}, "Yardsticks": {}}


class Unfit(Yardstick):
    """A baseline that finds nothing to compare with, or makes an invalid protocol."""

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        if not self._broken:
            raise ValueError("there is nothing of its kind.")
        return {**protocol, "Setup": {**protocol["Setup"], "batch_train": 0}}
