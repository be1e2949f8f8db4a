"""Frozen weights, written once to a file alongside the states of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignite_trainer.checkpoints.checkpoint_files import read_intact, save_durably
from ignite_trainer.support.files import is_intact

FILE_NAME = "frozen_weights.pt"
_SHA256 = "frozen_weights"  # key of the file's sha256 in a state


class FrozenWeights:
    """Saves the parameters that are frozen at the start in one file, and removes them from states.

    A parameter that differs from the file, such as a weight of a teacher that the task updates, stays in the
    state.

    Attributes:
        sha256: hash of the file, or None until the first state is written.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        """Note which parameters of `model` are frozen; their file will be in `folder`."""
        self._path = folder / FILE_NAME
        self._names = [
            name
            for name, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, nn.Parameter) and not value.requires_grad
        ]
        self.sha256: str | None = None

    def store_separately(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a state's content without the frozen weights; write their file if it is missing."""
        if not self._names:
            return content
        weights: dict[str, Any] = content["model"]
        if self.sha256 is None or not is_intact(self._path, self.sha256):
            self.sha256 = save_durably(self._path, {name: weights[name] for name in self._names})
        # Memory-mapped, as a copy would take as much memory as the frozen weights.
        saved = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        others = {
            name: value
            for name, value in weights.items()
            if name not in saved or not _are_identical(value, saved[name])
        }
        return {**content, "model": others, _SHA256: self.sha256}


def read_frozen(state: Path, content: Any) -> dict[str, Any]:
    """Read the frozen weights that a state does not contain; its content need not be valid.

    Raises:
        DamagedError: The file of frozen weights alongside the state is missing, damaged or not the file that
            the state was saved with.
    """
    sha256 = content.get(_SHA256) if isinstance(content, dict) else None
    return read_intact(state.with_name(FILE_NAME), sha256) if sha256 else {}


def _are_identical(first: Tensor, second: Tensor) -> bool:
    """Compare the dtype, shape and bits of two tensors: NaN equals NaN, and 0.0 differs from -0.0."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    # numpy compares in this thread only; torch would take threads away from training.
    first_bytes, second_bytes = (tensor.reshape(-1).view(torch.uint8).numpy() for tensor in (first, second))
    return np.array_equal(first_bytes, second_bytes)
