"""Clips and labels of the tasks that other benchmarks' packages evaluate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOLDS, CLIPS = 3, 6


def tones(fold: int) -> list[tuple[int, NDArray[np.float32]]]:
    """Make labels and clips of half a second in [-1, 1], 44.1 kHz: high and low tones in noise."""
    noise = np.random.default_rng(fold).standard_normal((CLIPS, 22050))
    times = np.arange(22050) / 44100
    return [
        (
            number % 2,
            (0.3 * np.sin(2 * np.pi * (3000, 300)[number % 2] * times) + 0.05 * each).astype(np.float32),
        )
        for number, each in enumerate(noise)
    ]
