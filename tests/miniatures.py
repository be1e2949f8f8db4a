"""Writes small data sets in their published layouts, with sounds whose classes are easy to tell."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000

FSD50K_LABELS = ("Bass_guitar", "Chirp_and_tweet", "Guitar", "Human_group_actions")
FSD50K_NAMES = ("bass guitar", "chirp and tweet", "guitar", "human group actions")
FSD50K_SETS = ((0, 2), (1,), (2,), (1, 3), (3,))
"""Sets of labels, which the clips cycle through: a bass guitar is a guitar, as in the published hierarchy."""


def write_fsd50k(root: Path, *, train: int = 5, val: int = 3, eval_: int = 4) -> Path:
    """Write FSD50K with this many clips of each split; return the root."""
    tables = root / "FSD50K.ground_truth"
    tables.mkdir(parents=True)
    mids = [f"/m/{number}" for number in range(len(FSD50K_LABELS))]
    vocabulary = zip(range(len(mids)), FSD50K_LABELS, mids, strict=True)
    _write(tables / "vocabulary.csv", list(vocabulary))
    number = 1000
    for table, splits in (("dev", ["train"] * train + ["val"] * val), ("eval", [""] * eval_)):
        (root / f"FSD50K.{table}_audio").mkdir()
        rows: list[Sequence[object]] = [("fname", "labels", "mids", *(["split"] if table == "dev" else []))]
        for index, split in enumerate(splits):
            classes = FSD50K_SETS[index % len(FSD50K_SETS)]
            labels = [",".join(values[c] for c in classes) for values in (FSD50K_LABELS, mids)]
            rows.append((number, *labels, *([split] if split else [])))
            write_tones(root / f"FSD50K.{table}_audio/{number}.wav", classes, seed=number)
            number += 1
        _write(tables / f"{table}.csv", rows)
    return root


VGGSOUND_NAMES = (
    "bird chirping, tweeting",
    "church bell ringing",
    "dog barking",
    "people running",
    "playing violin, fiddle",
)


def write_vggsound(root: Path, *, train: int = 6, test: int = 3) -> Path:
    """Write VGGSound with this many clips of each split; return the root."""
    rows: list[Sequence[object]] = []
    for number, split in enumerate(["train"] * train + ["test"] * test):
        label = number % len(VGGSOUND_NAMES)
        rows.append((f"{number:011d}", 30, VGGSOUND_NAMES[label], split))
        write_tones(root / f"audio/{number:011d}_000030.wav", [label], seed=number)
    _write(root / "vggsound.csv", rows)
    return root


def write_tones(path: Path, classes: Sequence[int], *, seed: int) -> None:
    """Write 0.2 s of one tone per class in noise, at 8 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random, time = np.random.default_rng(seed), np.arange(RATE // 5) / RATE
    tones = [np.sin(2 * np.pi * 300 * (1 + number) * time + random.random()) for number in classes]
    soundfile.write(path, 0.2 * sum(tones) + 0.02 * random.normal(size=len(time)), RATE)


def _write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
