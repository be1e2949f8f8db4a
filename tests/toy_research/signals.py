"""Data sets of noisy tones of unequal length, in three classes of different frequency."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ignite_trainer.api.findings import Finding, Inspection, Space


class Tone(NamedTuple):
    """One sample; the toy model uses only `signal` (float32 `[1, L]`) and `target`."""

    signal: Any
    picture: Any
    weight: Any
    name: Any
    target: Any


class Tones(Dataset[Tone]):
    """`samples` tones in a few folds, computed from their index."""

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


class ValidatedTones(Tones):
    """Tones of which the fold after the held-out one, or the first after the last, chooses the epoch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.validation_folds = (self.held_out[0] % len(self.folds) + 1,)
        self.validation: Tones | None = None
        if options["train"]:
            part = self.validation = Tones(**{**options, "fold": self.validation_folds[0], "train": False})
            self._indices = [index for index in self._indices if index not in part._indices]

    @property
    def names(self) -> set[str]:
        """Names of the samples."""
        return {f"tone {index}" for index in self._indices}


class Listing(NamedTuple):
    """Facts about a sample that is not read."""

    place: str
    labels: Sequence[str]


class LabelledTones(Tones):
    """Tones with labels: "tone" for all, "fifth" for every fifth one and "tenth" for every tenth one.

    Every tone has the label of its class, too, unless `single`, which leaves only that label. Those in
    `unlabelled` have none.
    """

    def __init__(self, *, single: bool = False, unlabelled: Sequence[int] = (), **options: Any) -> None:
        super().__init__(**options)
        self._single, self._unlabelled = single, unlabelled

    def listing(self, position: int) -> Listing:
        index = self._indices[position]
        own = f"class {index // 3 % 3}"
        several = ["tone", *["fifth"] * (index % 5 == 0), *["tenth"] * (index % 10 == 0)]
        labels = [own] if self._single else [own, *several]
        return Listing(f"tones.csv, line {index}", [] if position in self._unlabelled else labels)


class TonesInStretches(Tones):
    """Streamed tones: stretches in random order, in order within a stretch.

    Args:
        gone: positions in the split that cannot be read.
    """

    def __init__(self, *, lanes: int = 4, stretch: int = 3, gone: Sequence[int] = (), **options: Any) -> None:
        super().__init__(**options)
        self.lanes, self._stretch, self._gone = lanes, stretch, set(gone)
        self.read: list[list[int]] = []

    def __getitem__(self, position: int) -> Tone:
        if position in self._gone:
            raise OSError(f"{position} is cut off")
        return super().__getitem__(position)

    def epoch_order(self, key: int | None) -> np.ndarray[Any, Any]:
        everything = torch.arange(len(self))
        if key is not None:
            stretches = everything.split(self._stretch)
            order = torch.randperm(len(stretches), generator=torch.Generator().manual_seed(key))
            everything = torch.cat([stretches[number] for number in order])
        return everything.numpy()

    def stream(self, indices: Sequence[int]) -> Iterator[Callable[[], Tone]]:
        read: list[int] = []
        self.read.append(read)
        for index in map(int, indices):
            read.append(index)
            yield functools.partial(self.__getitem__, index)


class Doubtful(Tones):
    """Tones with a scripted inspection.

    Keys of `told`: "bad" and "odd" (number of errors and warnings), "room" (bytes needed in "folder"), and
    "raises" (message of an error to raise).
    """

    def __init__(self, *, told: Mapping[str, Any], train: bool = True, fold: int = 1) -> None:
        super().__init__(train=train, fold=fold)
        self.told = told

    @classmethod
    def inspect_data(cls, *, told: Mapping[str, Any], **_: Any) -> Inspection:
        if "raises" in told:
            raise RuntimeError(told["raises"])
        odd = [
            Finding(severity="warning", what="It is odd.", where=f"tone {number}")
            for number in range(told.get("odd", 0))
        ]
        bad = [
            Finding(
                severity="error", what="It is [red]broken\x1b[0m.", where=f"tone\r{number}", remedy="Mend it."
            )
            for number in range(told.get("bad", 0))
        ]
        space = Space(
            folder=Path(told.get("folder", ".")), size_bytes=told.get("room", 0), purpose="decoded tones"
        )
        return Inspection(findings=(*odd, *bad), space=(space,), summary="some tones")
