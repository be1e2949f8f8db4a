"""ESC-50, and the common properties of data sets with folds: splits, labels, samples."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from tests.utils.datasets.test_dataset_errors import edit
from utils.datasets import ESC50, Sample
from utils.datasets.esc50 import ESC_18_TARGETS


def test_a_sample_has_audio_a_list_of_labels_and_no_image(esc50: Path) -> None:
    audio, image, labels = sample = ESC50(esc50)[2]
    assert isinstance(sample, Sample)
    assert audio.dtype == np.float32
    assert audio.shape == (1, 102)
    assert image is None
    assert labels == ["sea waves"]


@pytest.mark.parametrize("split", [{}, {"fold": 3, "train": False}])
def test_samples_are_clips_in_16_bit_units(esc50: Path, split: dict[str, Any]) -> None:
    dataset = ESC50(esc50, **split)
    for clip, sample in zip(dataset.clips, dataset, strict=True):
        written, _ = soundfile.read(esc50 / clip.path, dtype="int16")
        np.testing.assert_array_equal(sample.audio, written[None].astype(np.float32))
        assert sample.labels == [clip.label]


def test_a_fold_is_held_out_and_the_others_are_trained_on(esc50: Path) -> None:
    for fold in range(1, 6):
        train, test = ESC50(esc50, fold=fold), ESC50(esc50, fold=fold, train=False)
        assert (len(train), len(test)) == (12, 3)
        assert {clip.fold for clip in test.clips} == {fold}
        assert {clip.fold for clip in train.clips} == {1, 2, 3, 4, 5} - {fold}
        assert not {clip.path for clip in train.clips} & {clip.path for clip in test.clips}


def test_several_folds_can_be_held_out(esc50: Path) -> None:
    test = ESC50(esc50, fold=[2, 5], train=False)
    assert [clip.fold for clip in test.clips] == [2, 2, 2, 5, 5, 5]
    assert len(ESC50(esc50, fold=[2, 5])) == 9


def test_without_a_fold_both_splits_are_the_complete_data_set(esc50: Path) -> None:
    assert ESC50(esc50).clips == ESC50(esc50, train=False).clips
    assert len(ESC50(esc50)) == 15


def test_class_names_cover_the_complete_data_set_in_the_order_of_targets(esc50: Path) -> None:
    # A class that only the held-out fold has.
    edit(esc50, "5-1012-A-4.wav,5,4,frog", "5-1012-A-4.wav,5,2,whale")
    train = ESC50(esc50, fold=5)
    assert train.class_names == ["dog", "whale", "frog", "sea waves"]
    assert "whale" not in {clip.label for clip in train.clips}


def test_targets_are_positions_in_class_names(esc50: Path) -> None:
    dataset = ESC50(esc50, fold=1)
    assert dataset.targets == [1, 0, 2] * 4
    assert [clip.target for clip in dataset.clips] == [4, 0, 11] * 4
    assert [dataset.class_names[target] for target in dataset.targets] == [
        clip.label for clip in dataset.clips
    ]


def test_esc10_has_only_the_marked_classes(esc50: Path) -> None:
    (esc50 / "audio/1-1000-A-4.wav").unlink()  # a frog, which is not in ESC-10, so its file is not needed
    dataset = ESC50(esc50, fold=1, esc10=True)
    assert dataset.class_names == ["dog", "sea waves"]
    assert len(dataset) == 8


def test_resampling_changes_the_length_by_the_ratio_of_rates(esc50: Path) -> None:
    time = np.arange(44100) / 44100
    path = esc50 / "audio/1-1000-A-4.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), 44100)
    audio = ESC50(esc50, sample_rate=22050)[0].audio
    assert audio.shape == (1, 22050)
    expected = 16384 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    np.testing.assert_allclose(audio[0, 500:-500], expected[500:-500], atol=16)


def test_channels_are_kept_averaged_or_duplicated(esc50: Path) -> None:
    stereo = np.random.default_rng(0).integers(-32768, 32768, (100, 2)).astype(np.int16)
    soundfile.write(esc50 / "audio/1-1000-A-4.wav", stereo, 44100)
    np.testing.assert_array_equal(ESC50(esc50)[0].audio, stereo.T)
    averaged = ESC50(esc50, mono=True)[0].audio
    np.testing.assert_array_equal(averaged[0], (stereo[:, 0].astype(float) + stereo[:, 1]) / 2)
    doubled = ESC50(esc50, mono=False)
    assert [doubled[i].audio.shape for i in (0, 1)] == [(2, 100), (2, 101)]
    np.testing.assert_array_equal(doubled[1].audio[0], doubled[1].audio[1])


def test_samples_are_copies(esc50: Path) -> None:
    dataset = ESC50(esc50)
    before = dataset[0].audio.copy()
    dataset[0].audio[:] = 0
    np.testing.assert_array_equal(dataset[0].audio, before)


def test_transforms_are_applied_to_audio_and_labels(esc50: Path) -> None:
    dataset = ESC50(esc50, transform_audio=lambda audio: audio.shape, target_transform=tuple)
    assert dataset[1] == ((1, 101), None, ("dog",))


def test_other_formats_are_read(esc50: Path) -> None:
    edit(esc50, "1-1000-A-4.wav", "1-1000-A-4.ogg")
    samples = 0.3 * np.sin(np.arange(44100) / 20)
    soundfile.write(esc50 / "audio/1-1000-A-4.ogg", samples, 44100)
    audio = ESC50(esc50)[0].audio
    assert np.corrcoef(audio[0], samples)[0, 1] > 0.99
    assert 9000 < np.abs(audio).max() < 11000


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_load_the_same_samples_as_the_main_process(esc50: Path, workers: int) -> None:
    dataset = ESC50(esc50)
    expected = list(dataset)  # the file is mapped before the workers start
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    for one, other in zip(expected, loaded, strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)
        assert one.labels == other.labels


def test_a_pickled_data_set_contains_no_audio(esc50: Path) -> None:
    for clip in ESC50(esc50).clips:
        soundfile.write(esc50 / clip.path, np.full(40000, 0.25), 44100)
    dataset = ESC50(esc50)
    expected = dataset[4].audio
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 10000
    np.testing.assert_array_equal(pickle.loads(pickled)[4].audio, expected)


def write_table(root: Path, targets: Iterable[int], per_fold: int = 8) -> Path:
    """Write a table with its files, all empty: `per_fold` clips of each target in each fold."""
    for folder in ("meta", "audio"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = ["filename,fold,target,category,esc10"]
    for target in targets:
        for fold in range(1, 6):
            for take in range(per_fold):
                name = f"{fold}-{100 * target + take}-A-{target}.ogg"
                (root / "audio" / name).touch()
                lines.append(f"{name},{fold},{target},class_{target},False")
    (root / "meta/esc50.csv").write_text("\n".join(lines))
    return root


def test_results_on_a_part_never_carry_the_data_sets_name(tmp_path: Path) -> None:
    assert len(ESC_18_TARGETS) == 18
    assert ESC50(write_table(tmp_path / "whole", range(50))).results_name == "ESC-50"
    assert ESC50(write_table(tmp_path / "18", ESC_18_TARGETS)).results_name == "ESC-18"
    others = ESC50(write_table(tmp_path / "others", range(18)))
    assert others.results_name == "part of ESC-50 (720 clips, 18 classes)"
    fewer = ESC50(write_table(tmp_path / "fewer", ESC_18_TARGETS, per_fold=7))
    assert fewer.results_name == "part of ESC-50 (630 clips, 18 classes)"


@pytest.mark.real_data
def test_esc18_has_144_clips_in_each_fold(
    real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ESC50, "decode", lambda *_: np.zeros((1, 4), np.float32))  # only the table is tested
    root = real_data("esc18")
    for fold in range(1, 6):
        test = ESC50(root, fold=fold, train=False)
        assert len(test) == 144
        assert np.bincount(test.targets).tolist() == [8] * 18
    assert len(test.class_names) == 18
    assert test.results_name == "ESC-18"
    assert {clip.target for clip in test.clips} == ESC_18_TARGETS
    assert ESC50(root, esc10=True).results_name == "ESC-10"
    assert len(ESC50(root, esc10=True).class_names) == 10
    assert len(ESC50(root, esc10=True)) == 400


@pytest.mark.real_data
def test_esc18_clips_are_complete_and_in_16_bit_units(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    source, root = real_data("esc18"), tmp_path / "some"
    lines = (source / "meta/esc50.csv").read_text().splitlines()
    few = [lines[0], *lines[1::60]]
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text("\n".join(few))
    (root / "audio").symlink_to(source / "audio")
    dataset = ESC50(root)
    assert len(dataset) == 12
    for clip, sample in zip(dataset.clips, dataset, strict=True):
        decoded, rate = soundfile.read(source / clip.path)
        assert rate == 44100
        np.testing.assert_allclose(sample.audio, decoded[None] * 32768, rtol=1e-6, atol=1e-3)
        assert np.abs(sample.audio).max() > 100
