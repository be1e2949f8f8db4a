"""A task, and the metrics that ignite does not have."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Metric
from torch import Tensor, nn
from torch.nn import functional

from ignite_trainer.api.task import StepOutput, Task
from toy_research.network import TwoTowers


class Matching(Task):
    """Cross-entropy over classes; `explode_at` makes the loss of that step not finite."""

    class_names = ("low", "middle", "high")

    def __init__(self, *, smoothing: float = 0.0, explode_at: int | None = None) -> None:
        self._smoothing, self._explode_at, self._steps = smoothing, explode_at, 0
        self._prototypes: Tensor | None = None

    def prepare(self, model: nn.Module, *, train: Sized, test: Sized) -> None:
        if not isinstance(model, TwoTowers):
            raise ValueError(f"matching needs TwoTowers, not {type(model).__name__}.")
        self.sizes = len(train), len(test)

    def start_evaluation(self, model: nn.Module) -> None:
        assert isinstance(model, TwoTowers)
        self._prototypes = model.prototypes()

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        self._steps += 1
        scores = model(batch.signal)
        loss = functional.cross_entropy(scores, batch.target, label_smoothing=self._smoothing)
        return StepOutput(scores, batch.target, loss * (torch.inf if self._steps == self._explode_at else 1))

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        return StepOutput(model(batch.signal, self._prototypes), batch.target)


class Interrupted(Matching):
    """Someone presses Ctrl-C in the third step."""

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        if self._steps == 2:
            raise KeyboardInterrupt
        return super().training_step(model, batch)


class Signalled(Matching):
    """A signal comes in a step of training, or in a batch of an evaluation, of this process; each from 1."""

    def __init__(self, *, name: str, step: int | None = None, batch: int | None = None) -> None:
        super().__init__()
        self._signal, self._step, self._batch, self._batches = signal.Signals[name], step, batch, 0

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().training_step(model, batch)
        if self._steps == self._step:
            os.kill(os.getpid(), self._signal)
        return output

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        self._batches += 1
        if self._batches == self._batch:
            os.kill(os.getpid(), self._signal)
        return super().evaluation_step(model, batch)


def wait_for(folder: Path, pattern: str) -> None:
    """Wait until there is such a file in a folder, or below: states are written beside the steps."""
    deadline = time.monotonic() + 60
    while not [*folder.rglob(pattern)]:
        assert time.monotonic() < deadline, f"there was no {pattern} within a minute"
        time.sleep(0.01)


class Killed(Matching):
    """The process is killed in the third step, once the state of the second one is on the disk.

    Args:
        fold: the fold that is held out in the run that is killed.
        marker: path of a file; without it nothing is killed. The results lie beside it.
    """

    def __init__(self, *, fold: int, marker: str) -> None:
        super().__init__()
        self._fold, self._marker = fold, Path(marker)

    def prepare(self, model: nn.Module, *, train: Sized, test: Sized) -> None:
        super().prepare(model, train=train, test=test)
        self._dies = getattr(test, "held_out", ()) == (self._fold,) and self._marker.exists()

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        if self._dies and self._steps == 2:
            wait_for(self._marker.parent, f"fold-{self._fold}/checkpoints/last_*_step-2.pt")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(model, batch)


class Surprise(Metric):
    """Mean negative log-probability of the right class: the less the better."""

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        scores, targets = output
        self._sum += float(functional.cross_entropy(scores, targets, reduction="sum"))
        self._count += len(targets)

    def compute(self) -> float:
        return self._sum / self._count


class Counted(Metric):
    """Number of samples; a `floor` below which the value is not a number."""

    def __init__(self, *, floor: int = 0, **options: Any) -> None:
        self._floor = floor
        super().__init__(**options)

    def reset(self) -> None:
        self._count = 0

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        self._count += len(output[1])

    def compute(self) -> float:
        return float(self._count) if self._count >= self._floor else float("nan")


class PerClass(Metric):
    """Gives a number for each class, which no line can draw."""

    def reset(self) -> None:
        pass

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        pass

    def compute(self) -> Tensor:
        return torch.zeros(3)
