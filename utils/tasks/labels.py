"""Labels of samples as targets, and what tasks ask of a data set before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SAMPLE_RATE = 44100
"""What the released weights were trained on, Hz."""

_LOOKED_AT = 8  # samples; the first may be silent


class Classes:
    """The classes of a data set, by number and by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of(cls, *datasets: Any) -> Classes:
        """Take the classes that all these data sets share.

        Raises:
            ValueError: a data set has no `class_names`, or they differ.
        """
        for dataset in datasets:
            if not getattr(dataset, "class_names", None):
                raise ValueError(
                    f"{type(dataset).__name__} has no class_names; this task needs the list of its labels."
                )
        names = list(datasets[0].class_names)
        if any(list(dataset.class_names) != names for dataset in datasets):
            raise ValueError("The training and the held-out split have different class_names.")
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def targets(self, labels: Sequence[Sequence[str]], *, multilabel: bool, device: torch.device) -> Tensor:
        """Number the labels of a batch.

        Returns:
            int64 `[B]`, the class of each sample's only label; if `multilabel`, `[B, classes]` of 0 and 1.

        Raises:
            ValueError: a label is no class, or a sample has not one label where one is needed.
        """
        numbers = [[self._number(label) for label in sample] for sample in labels]
        if multilabel:
            targets = torch.zeros(len(numbers), len(self), dtype=torch.int64)
            for row, sample in zip(targets, numbers, strict=True):
                row[sample] = 1
            return targets.to(device, non_blocking=True)
        wrong = next((list(sample) for sample in labels if len(sample) != 1), None)
        if wrong is not None:
            raise ValueError(f"A sample has the labels {wrong}; without multilabel each has exactly one.")
        return torch.tensor([sample[0] for sample in numbers]).to(device, non_blocking=True)

    def _number(self, label: str) -> int:
        if label not in self._numbers:
            raise ValueError(f'The label "{label}" is not among the {len(self)} class_names of the data set.')
        return self._numbers[label]


def check_audio(dataset: Any) -> None:
    """Look at the first samples of a data set for the usual mistakes; what cannot be read is left to the run.

    Raises:
        ValueError: the audio is not `[C, T]`, or looks like [-1, 1] instead of 16-bit units.
    """
    rate = getattr(dataset, "sample_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        logger.warning("The data set is sampled at %s Hz; the released weights expect %s.", rate, SAMPLE_RATE)
    for index in range(min(len(dataset), _LOOKED_AT)):
        try:
            given = dataset[index][0]
        except (OSError, EOFError, ValueError, RuntimeError):  # the run names it, or passes it over
            continue
        if given is None:
            continue
        audio = torch.as_tensor(given)
        if audio.dim() != 2:
            raise ValueError(
                f"Sample {index} has audio of shape {list(audio.shape)}; expected [C, T]: channels, samples."
            )
        peak = float(audio.abs().max()) if audio.numel() else 0.0
        if 0.0 < peak <= 1.0:
            raise ValueError(
                f"Sample {index} has a peak of {peak:.3g}: its audio looks like [-1, 1], but 16-bit units "
                "(-32768..32767) are expected. Multiply by 32768 in the data set."
            )
