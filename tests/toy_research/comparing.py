"""Yardsticks: one that takes a known time, one that fits no protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from ignite_trainer.api.task import StepOutput
from ignite_trainer.api.yardstick import Yardstick
from toy_research.learning import Matching


class Asleep(Yardstick):
    """The same work, and so many seconds of sleep in every step."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        task = {"class": "toy_research.comparing.SleepyMatching", "args": {"seconds": self._seconds}}
        return {**protocol, "Task": task, "Yardsticks": {}}


class SleepyMatching(Matching):
    """Sleeps in every step."""

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
    """The same work with activations computed twice, which not every model can."""

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        return {**protocol, "Setup": {**protocol["Setup"], "recompute": True}, "Yardsticks": {}}


class Unfit(Yardstick):
    """Finds nothing to compare with, or makes a protocol that is none."""

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        if not self._broken:
            raise ValueError("there is nothing of its kind.")
        return {**protocol, "Setup": {**protocol["Setup"], "batch_train": 0}}
