"""Data sets of many tiny, numbered samples, and shards of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from utils.datasets.sample import Sample, SampleFiles
from utils.shards.making import Options, make

FOLDS = 4


class Numbers(Dataset[Sample]):
    """Sample i repeats the number i four times.

    Args:
        count: number of samples.
        folds: whether there are folds.
        images: whether each has a plain image.
        gone: unreadable samples.
    """

    class_names = ("even", "odd")
    results_name = "Numbers"
    sample_rate = 44100

    def __init__(
        self, count: int, *, folds: bool = False, images: bool = False, gone: Sequence[int] = ()
    ) -> None:
        self._count, self._folds, self._images = count, folds, images
        self.gone = set(gone)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if index in self.gone:
            raise OSError(f"number {index} is cut off")
        audio = np.full((1, 4), index, np.float32)
        image = np.full((3, 2, 5), index % 256, np.uint8) if self._images else None
        return Sample(audio, image, [self.class_names[index % 2]])

    def record(self, index: int) -> dict[str, Any]:
        return {"clip": f"number {index}", **({"fold": index % FOLDS + 1} if self._folds else {})}


class SaidNumbers(Numbers):
    """Numbers that have only texts, so that ten thousand are written in a second."""

    def files(self, index: int) -> SampleFiles:
        return SampleFiles(None, labels=[self.class_names[index % 2]], captions=[str(index)])


def written(folder: Path, numbers: Numbers | None = None, **options: Any) -> Path:
    """Write numbers, a hundred by default, as shards of ten; return the manifest."""
    given: dict[str, Any] = {"samples": 10, **options}
    make({None: Numbers(100) if numbers is None else numbers}, folder, Options(**given), made_from={})
    return folder / "manifest.jsonl"
