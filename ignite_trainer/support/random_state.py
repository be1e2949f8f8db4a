"""The global random states of Python, numpy and torch, as plain values that checkpoints hold.

Of CUDA it is that of the device in use.

What happens to a sample does not come from them (see `randomness`); dropout, say, does.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Take the states as they are now: tensors, numbers, texts, and lists of them."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is meant
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def reinstate(state: Mapping[str, Any]) -> None:
    """Put back what `capture` took; that of the CUDA device if there is one still."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for value in state["cuda"][:1]:
            torch.cuda.set_rng_state(value)
