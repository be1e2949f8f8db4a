"""Checkpoints of a run: the best few by each metric that asks for it, and the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_trainer.protocol import Protocol
from ignite_trainer.reporters.reporter import Best
from ignite_trainer.writing import whole_file

BEST_KEPT = 3


class Checkpoints:
    """Writes `best_<metric>_epoch-<n>_<value>.pt` (the model's state dict) and `last_epoch-<n>.pt`.

    The best files load wherever weights load; the last one also holds the optimizer and the scheduler. Each
    is written beside its place and renamed, so a file of that name is complete, and what it supersedes is
    removed only then.
    """

    def __init__(
        self, folder: Path, protocol: Protocol, *, model: nn.Module, state: Mapping[str, Any]
    ) -> None:
        """Prepare to save `model`, and with the last checkpoint the objects of `state`, under `folder`."""
        self._folder, self._model, self._state = folder, model, state
        self._lines = {line.line_label: line for line in protocol.lines.values() if line.is_checkpoint}
        self._kept: dict[str, list[Best]] = {label: [] for label in self._lines}
        self._last: Path | None = None

    def save(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Save what the held-out `values` of this epoch call for, and the last state."""
        self._folder.mkdir(exist_ok=True)
        weights = {name: _plain(value) for name, value in self._model.state_dict().items()}
        state = {name: part.state_dict() for name, part in self._state.items()}
        previous, self._last = self._last, self._write(f"last_epoch-{epoch}.pt", {"model": weights, **state})
        if previous:
            previous.unlink(missing_ok=True)
        for label in self._lines:
            self._save_if_among_the_best(label, values[label], epoch, weights)

    @property
    def best(self) -> tuple[Best, ...]:
        """The best epoch by each metric marked `is_checkpoint`, the earliest of equals."""
        return tuple(kept[0] for kept in self._kept.values() if kept)

    @property
    def last(self) -> Path | None:
        """Where the last checkpoint is."""
        return self._last

    def _save_if_among_the_best(
        self, label: str, value: float, epoch: int, weights: Mapping[str, Any]
    ) -> None:
        kept = self._kept[label]
        place = sum(self._rank(label, one.value) >= self._rank(label, value) for one in kept)
        if place == BEST_KEPT:
            return
        path = self._write(f"best_{self._lines[label].file_name}_epoch-{epoch}_{value:.4f}.pt", weights)
        kept.insert(place, Best(label=label, value=value, epoch=epoch, checkpoint=path))
        for superseded in kept[BEST_KEPT:]:
            if superseded.checkpoint:
                superseded.checkpoint.unlink(missing_ok=True)
        del kept[BEST_KEPT:]

    def _rank(self, label: str, value: float) -> float:
        """The more the better; what is no number is the worst."""
        if math.isnan(value):
            return -math.inf
        return value if self._lines[label].best == "max" else -value

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self._folder / name
        with whole_file(path) as part:
            torch.save(content, part)
        return path


def _plain(value: Any) -> Any:
    """A tensor in its usual layout, whatever that of the model in memory."""
    return value.contiguous() if isinstance(value, Tensor) else value
