"""A data set: noisy tones of unequal length, three classes apart in frequency."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch.utils.data import Dataset


class Tone(NamedTuple):
    """One sample; only `signal` (float32 `[1, L]`) and `target` matter to the toy model.

    Collated, every field is that of a whole batch.
    """

    signal: Any
    picture: Any
    weight: Any
    name: Any
    target: Any


class Tones(Dataset[Tone]):
    """`samples` tones, split into a few folds; made anew each time from their index."""

    affects: ClassVar[dict[str, str]] = {"fold": "run"}

    def __init__(
        self,
        *,
        train: bool = True,
        fold: int = 1,
        folds: int = 3,
        samples: int = 30,
        length: int = 16,
        spread: int = 5,
    ) -> None:
        if not 1 <= fold <= folds:
            raise ValueError(f"fold is {fold}; there are folds 1 to {folds}.")
        self.folds = tuple(range(1, folds + 1))
        self.held_out: tuple[int, ...] = (fold,)
        self._indices = [index for index in range(samples) if (index % folds == fold - 1) != train]
        self._length, self._spread = length, spread

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Tone:
        index = self._indices[position]
        target = index // 3 % 3
        length = self._length + index % (self._spread + 1)
        tone = np.sin(np.arange(length) * (target + 1) * 0.8)
        noise = np.random.default_rng(index).normal(size=length)
        signal = (tone + 0.1 * noise).astype(np.float32)[None]
        return Tone(signal, None, 0.5 * index, f"tone {index}", target)
