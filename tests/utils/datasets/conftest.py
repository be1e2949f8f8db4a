"""Fixtures: small data sets, and a full disk."""

from __future__ import annotations

import csv
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write eight sounds, 0.wav to 7.wav, each a second of noise at 8 kHz."""
    for i in range(8):
        samples = np.random.default_rng(i).integers(-9999, 9999, 8000).astype(np.int16)
        _write_wav(tmp_path / f"{i}.wav", samples, 8000)
    return tmp_path


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    """Write 5 folds x 3 classes with targets 0, 4 and 11; clip i is 100 + i samples of 16-bit noise."""
    root = tmp_path / "esc50"
    rows: list[Sequence[object]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        for target, category, esc10 in (4, "frog", False), (0, "dog", True), (11, "sea_waves", True):
            i = len(rows) - 1
            name = f"{fold}-{1000 + i}-A-{target}.wav"
            samples = np.random.default_rng(i).integers(-32768, 32768, 100 + i).astype(np.int16)
            _write_wav(root / "audio" / name, samples)
            rows.append((name, fold, target, category, esc10, 1000 + i, "A"))
    _write_table(root / "meta/esc50.csv", rows)
    return root


@pytest.fixture
def write_us8k(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes clips, `[T]` or `[T, C]`: clip i is in fold i + 1; classes alternate."""

    def write(*clips: NDArray[Any], rate: int = 44100, subtype: str = "PCM_16") -> Path:
        root = tmp_path / "us8k"
        rows: list[Sequence[object]] = [
            ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
        ]
        for i, samples in enumerate(clips):
            target, label = [(0, "air_conditioner"), (1, "car_horn")][i % 2]
            name = f"{i}-{target}-0-0.wav"
            _write_wav(root / f"audio/fold{i + 1}" / name, samples, rate, subtype)
            rows.append((name, i, 0.0, 1.0, 1, i + 1, target, label))
        _write_table(root / "metadata/UrbanSound8K.csv", rows)
        return root

    return write


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager in which files cannot grow beyond 2,000 bytes.

    It does not cover the entire test, because the limit also applies to files that pytest writes.
    """

    @contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def _write_wav(path: Path, samples: NDArray[Any], rate: int = 44100, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


def _write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
