"""Tasks, some of which are interrupted; and metrics."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Metric
from torch import Tensor, nn
from torch.nn import functional

from ignite_trainer.api.media import Exhibit
from ignite_trainer.api.task import EmbeddingTask, StepOutput, Task
from toy_research.network import TwoTowers


class Matching(Task):
    """Cross-entropy over classes; the loss of step `explode_at` is non-finite."""

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
    """A task that is interrupted by Ctrl-C in the third step."""

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        if self._steps == 2:
            raise KeyboardInterrupt
        return super().training_step(model, batch)


class Signalled(Matching):
    """A task that sends its process a signal in a training step or an evaluation batch, counted from 1."""

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
    """Wait until a file below a folder matches: states are written in the background."""
    deadline = time.monotonic() + 60
    while not [*folder.rglob(pattern)]:
        assert time.monotonic() < deadline, f"there was no {pattern} within a minute"
        time.sleep(0.01)


class Killed(Matching):
    """A task that kills its process in the third step, once the state of the second one is on disk.

    Args:
        fold: the held-out fold of the run to kill.
        marker: path of a file next to the results; without this file, nothing is killed.
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
    """Mean negative log-probability of the true class; lower is better."""

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        scores, targets = output
        self._sum += float(functional.cross_entropy(scores, targets, reduction="sum"))
        self._count += len(targets)

    def compute(self) -> float:
        return self._sum / self._count


class Counted(Metric):
    """Number of samples; NaN below `floor`."""

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
    """A number for each class, which no line can draw."""

    def reset(self) -> None:
        pass

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        pass

    def compute(self) -> Tensor:
        return torch.zeros(3)


class Pairing(EmbeddingTask):
    """Cross-entropy of the cosines of signals and classes, along rows.

    With `named_only`, samples of class 0 have no class embedding. The loss of step `explode_at` is not
    finite; `most` samples fit into memory at a time.
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
        penalty = next(model.left.parameters()).square().mean()  # depends only on parameters
        loss = functional.cross_entropy(scores, own) + 0.1 * penalty
        return StepOutput(scores, own, loss * (torch.inf if self._steps == self._explode_at else 1))

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        return StepOutput(model(batch.signal), batch.target)


class Jittered(Pairing):
    """A task that adds noise to the signals in training, and notes the noise of each sample's first value.

    Attributes:
        drawn: noise of each call of `embed`.
        shown: noise that each portrait would have; None without streams.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[list[float]] = []
        self.shown: list[float | None] = []

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        assert self.random is not None
        noise = self.random.normal(batch.signal.shape[-1])[:, None]
        self.drawn.append(noise[:, 0, 0].tolist())
        return super().embed(model, batch._replace(signal=batch.signal + noise.to(batch.signal.dtype)))

    def embed_targets(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        assert self.random is not None
        assert len(self.random) == len(batch.target)
        return super().embed_targets(model, batch)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        assert self.random is None
        return super().evaluation_step(model, batch)

    def portray_sample(self, model: nn.Module, batch: Any) -> Sequence[Exhibit]:  # noqa: ARG002
        self.shown.append(None if self.random is None else float(self.random.normal(1)))
        return [Exhibit(what="Nothing", media_type="image/png", content=b"")]
