"""Synthetic sounds are in ESC-50's layout, reproducible and varied, and their classes are distinct."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from utils.datasets import ESC50, MadeSounds

SMALL: dict[str, Any] = {"seconds": 0.2, "clips_per_class_and_fold": 1}


def test_the_layout_equals_that_of_esc50(tmp_path: Path) -> None:
    made = MadeSounds(tmp_path / "made", fold=1, seconds=0.2, clips_per_class_and_fold=2)
    assert len(made) == 48
    with (tmp_path / "made/meta/esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    assert len(rows) == 60
    for row in rows:
        assert row["filename"] == f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}.wav"
        description = soundfile.info(tmp_path / "made/audio" / row["filename"])
        assert (description.samplerate, description.channels, description.frames) == (44100, 1, 8820)
        assert description.subtype == "PCM_16"
    assert len({row["src_file"] for row in rows}) == 60
    read = ESC50(tmp_path / "made", fold=1)
    assert read.clips == [clip._replace(source=read.clips[i].source) for i, clip in enumerate(made.clips)]
    np.testing.assert_array_equal(read[7].audio, made[7].audio)


def test_every_fold_has_one_clip_of_each_class() -> None:
    for fold in range(1, 6):
        test = MadeSounds(fold=fold, train=False, **SMALL)
        assert test.class_names == ["siren", "rain", "clock tick", "chirping birds", "engine", "church bells"]
        assert sorted(test.targets) == [0, 1, 2, 3, 4, 5]


def test_equal_arguments_make_equal_sounds_and_other_seeds_different_ones(tmp_path: Path) -> None:
    one, same, other = (
        MadeSounds(tmp_path / str(number), seed=seed, **SMALL) for number, seed in enumerate([3, 3, 4])
    )
    assert one.clips == same.clips
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a.audio, b.audio)
        assert np.abs(a.audio - c.audio).max() > 100


def test_no_clip_is_silent_clipped_or_equal_to_another() -> None:
    clips = np.stack([sample.audio[0] for sample in MadeSounds(**SMALL)])
    peaks = np.abs(clips).max(axis=1)
    assert peaks.min() > 32767 * 10 ** (-18.1 / 20)
    assert peaks.max() < 32767 * 10 ** (-2.9 / 20)
    assert peaks.std() > 1000
    correlation = np.corrcoef(clips) - np.eye(len(clips))
    assert np.abs(correlation).max() < 0.9


def test_the_shortest_clips_are_not_silent() -> None:
    for sample in MadeSounds(seconds=0.1, clips_per_class_and_fold=4):
        assert np.abs(sample.audio).max() > 1000


def test_simple_spectral_features_distinguish_the_classes() -> None:
    """Classify the held-out fold by the nearest class mean of 24 log bands and their spread over time."""

    def features(dataset: MadeSounds) -> tuple[Any, Any]:
        rows = []
        for sample in dataset:
            frames = sample.audio[0, : 44100 // 1050 * 1050].reshape(-1, 1050) / np.abs(sample.audio).max()
            power = np.abs(np.fft.rfft(frames * np.hanning(1050), axis=1)) ** 2
            edges = np.unique(np.geomspace(1, power.shape[1], 25).astype(int))
            bands = np.log(np.add.reduceat(power[:, 1:], edges[:-1] - 1, axis=1) + 1e-3)
            rows.append(np.concatenate([bands.mean(axis=0), bands.std(axis=0)]))
        return np.stack(rows), np.array(dataset.targets)

    x, y = features(MadeSounds(fold=1))
    means = np.stack([x[y == target].mean(axis=0) for target in range(6)])
    x_test, y_test = features(MadeSounds(fold=1, train=False))
    nearest = ((x_test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == y_test).mean() > 0.9


def test_sounds_are_made_once(tmp_path: Path) -> None:
    root = tmp_path / "made"
    MadeSounds(root, **SMALL)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    MadeSounds(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times


def test_the_default_root_is_in_the_cache_folder(cache_folder: Path, tmp_path: Path) -> None:
    assert MadeSounds(**SMALL).root.parent == cache_folder
    assert MadeSounds(cache=tmp_path / "chosen", **SMALL).root.parent == tmp_path / "chosen"
    assert MadeSounds(seed=1, **SMALL).root != MadeSounds(**SMALL).root


def test_a_folder_with_other_content_is_refused(esc50: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"root is {esc50}, which holds something else instead")):
        MadeSounds(esc50, **SMALL)
    MadeSounds(tmp_path / "made", **SMALL)
    with pytest.raises(ValueError, match=r"root is .* which holds .*'seed': 0.* made from .*'seed': 7"):
        MadeSounds(tmp_path / "made", seed=7, **SMALL)


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file/made"
    with pytest.raises(OSError, match=re.escape(f"root is {root}, where sounds cannot be written (")):
        MadeSounds(root, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "seconds is 0; 0.1 to 60 is expected."),
        ({"clips_per_class_and_fold": 0}, "clips_per_class_and_fold is 0; 1 to 1000 is expected."),
        ({"clips_per_class_and_fold": 10**6}, "clips_per_class_and_fold is 1000000; 1 to 1000 is expected."),
        ({"seed": -1}, "seed is -1; an integer of 0 or more is expected."),
        ({"fold": 6}, "fold is 6; MadeSounds has folds 1 to 5."),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MadeSounds(**{**SMALL, **arguments})
