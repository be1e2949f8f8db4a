"""Frozen weights, written once into a file beside the states of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignite_trainer.checkpoints.checkpoint_files import read_intact, save_durably
from ignite_trainer.support.files import is_intact

FILE_NAME = "frozen_weights.pt"
_SHA256 = "frozen_weights"  # key in a state: sha256 of the file


class FrozenWeights:
    """Keeps the parameters that are frozen at the start in one file, and leaves them out of states.

    A parameter that differs from the file, such as a teacher moved by a task, stays in the state.

    Attributes:
        sha256: hash of the file; None until the first state is written.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        """Note which parameters of `model` need no gradient; the file will be in `folder`."""
        self._path = folder / FILE_NAME
        self._names = [
            name
            for name, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, nn.Parameter) and not value.requires_grad
        ]
        self.sha256: str | None = None

    def leave_out(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a state without the weights in the file; write the file if it is missing."""
        if not self._names:
            return content
        weights: dict[str, Any] = content["model"]
        if self.sha256 is None or not is_intact(self._path, self.sha256):
            self.sha256 = save_durably(self._path, {name: weights[name] for name in self._names})
        # Mapped: a copy would take as much memory as the frozen weights.
        saved = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        others = {
            name: value
            for name, value in weights.items()
            if name not in saved or not _are_identical(value, saved[name])
        }
        return {**content, "model": others, _SHA256: self.sha256}


def read_left_out(state: Path, content: Any) -> dict[str, Any]:
    """Read the weights that a state leaves out.

    Args:
        state: file of the state.
        content: its content, not yet checked.

    Raises:
        DamagedError: the file of frozen weights beside the state is not the one it was saved with.
    """
    sha256 = content.get(_SHA256) if isinstance(content, dict) else None
    return read_intact(state.with_name(FILE_NAME), sha256) if sha256 else {}


def _are_identical(one: Tensor, other: Tensor) -> bool:
    """Compare type, shape and bits of two tensors: NaN equals NaN, and 0.0 differs from -0.0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # numpy compares in this thread only; torch would take threads from training.
    ours, theirs = (tensor.reshape(-1).view(torch.uint8).numpy() for tensor in (one, other))
    return np.array_equal(ours, theirs)
