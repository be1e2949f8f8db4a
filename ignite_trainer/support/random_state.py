"""The global random states of Python, numpy and torch, as plain values for checkpoints.

Dropout, for example, depends on them; the augmentation of a sample does not (see `randomness`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Return the current states, including the state of the current CUDA device."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global state is meant
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def reinstate(state: Mapping[str, Any]) -> None:
    """Restore the states that `capture` returned; the CUDA state only if there is a CUDA device."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for value in state["cuda"][:1]:
            torch.cuda.set_rng_state(value)
