"""Balanced sampling of the data sets that list the labels of their samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ignite_trainer.data.sampling import BalancedSampling
from tests.miniatures import RATE, write_audioset, write_fsd50k, write_vggsound
from utils.datasets import FSD50K, AudioSet, VGGSound


def audioset(folder: Path) -> Any:
    write_audioset(folder, segments=11)
    return AudioSet(folder, RATE, train_on="both")


def fsd50k(folder: Path) -> Any:
    return FSD50K(write_fsd50k(folder, train=13), RATE)


def vggsound(folder: Path) -> Any:
    return VGGSound(write_vggsound(folder, train=12), RATE)


@pytest.mark.parametrize("make_data", [audioset, fsd50k, vggsound])
def test_probabilities_follow_from_the_labels_of_the_samples(make_data: Any, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    labels = [data[index].labels for index in range(len(data))]
    frequency = Counter(label for own in labels for label in own)
    weights = np.array([sum(1 / frequency[label] for label in own) for own in labels])
    found = BalancedSampling(data).probabilities
    np.testing.assert_allclose(found, weights / len(frequency), rtol=1e-12)
    assert len({round(weight, 9) for weight in weights}) > 1
