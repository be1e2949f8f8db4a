"""The validation split, which chooses the best epoch: three parts without a common sample."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from utils.datasets import ESC50, Table
from utils.datasets.cached import validation_folds

RATE = 8000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write sounds of 100 + i samples: two from each of six recordings, in three folds and three splits."""
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "fold", "split", "group"])
        for i in range(12):
            soundfile.write(tmp_path / f"{i}.wav", np.full(100 + i, i, np.int16), RATE)
            split = ("train", "valid", "test")[i % 3]
            writer.writerow([f"{i}.wav", ("dog", "sea")[i % 2], i % 3 + 1, split, f"recording {i // 2}"])
    return tmp_path / "own.csv"


def numbers(dataset: Any) -> set[int]:
    """Return the numbers of a table's sounds, read from their lengths."""
    return {dataset[i].audio.shape[1] - 100 for i in range(len(dataset))}


@pytest.mark.parametrize(
    ("fold", "validation_fold", "expected"),
    [(1, "next", [2]), (4, "next", [5]), (5, "next", [1]), ([1, 2], "next", [3]), (5, [1, 2], [1, 2])],
)
def test_validation_takes_other_folds_than_the_held_out_ones(
    esc50: Path, fold: Any, validation_fold: Any, expected: list[int]
) -> None:
    args = {"fold": fold, "validation_fold": validation_fold}
    train, test = ESC50(esc50, **args), ESC50(esc50, **args, train=False)
    validation = train.validation
    assert validation is not None
    folds = [{clip.fold for clip in part.clips} for part in (train, validation, test)]
    held_out = {fold} if isinstance(fold, int) else set(fold)
    assert folds == [{1, 2, 3, 4, 5} - set(expected) - held_out, set(expected), held_out]
    assert len(train) + len(validation) + len(test) == 15
    for clip, sample in zip(validation.clips, validation, strict=True):
        written, _ = soundfile.read(esc50 / clip.path, dtype="int16")
        np.testing.assert_array_equal(sample.audio, written[None].astype(np.float32))
        assert sample.labels == [clip.label]
    batch = validation.read_batch([2, 0])
    assert batch.labels == [validation[2].labels, validation[0].labels]


def test_rotating_both_folds_validates_on_each_fold_once() -> None:
    folds = range(1, 11)
    chosen = [validation_folds("next", held_out=[fold], folds=folds) for fold in folds]
    assert sorted(chosen) == [(fold,) for fold in folds]
    assert all(fold not in validation for fold, validation in zip(folds, chosen, strict=True))


def test_without_a_validation_fold_all_other_folds_are_trained_on(esc50: Path) -> None:
    train = ESC50(esc50, fold=2)
    assert train.validation is None
    assert {clip.fold for clip in train.clips} == {1, 3, 4, 5}


@pytest.mark.parametrize(
    ("fold", "validation_fold", "message"),
    [
        (1, 1, r'validation_fold is 1; expected: "next", or some of 2, 3, 4, 5'),
        (1, 6, r'validation_fold is 6; expected: "next", or some of 2, 3, 4, 5'),
        (1, True, "validation_fold is True; expected"),
        (1, "last", "validation_fold is 'last'; expected"),
        (1, [2, 3, 4, 5], "no fold is left to train on"),
        (None, 2, "no fold is held out"),
        (None, "next", "no fold is held out"),
    ],
)
def test_impossible_validation_folds_are_refused(
    esc50: Path, fold: Any, validation_fold: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ESC50(esc50, fold=fold, validation_fold=validation_fold)


@pytest.mark.parametrize("cache", [None, False])
@pytest.mark.parametrize(
    ("args", "validation", "test"),
    [
        ({"fold": 3, "validation_fold": "next"}, {0, 3, 6, 9}, {2, 5, 8, 11}),
        ({"fold": 1, "validation_fold": 3}, {2, 5, 8, 11}, {0, 3, 6, 9}),
        ({"split": "test", "validation_split": "valid"}, {1, 4, 7, 10}, {2, 5, 8, 11}),
    ],
)
def test_a_table_validates_on_folds_or_splits(
    table: Path,
    tmp_path: Path,
    cache: bool | None,
    args: dict[str, Any],
    validation: set[int],
    test: set[int],
) -> None:
    args = {**args, "cache": tmp_path / "cache" if cache is None else False}
    train, held_out = Table(table, RATE, **args), Table(table, RATE, **args, train=False)
    assert train.validation is not None
    assert held_out.validation is None
    assert numbers(train.validation) == validation
    assert numbers(held_out) == test
    assert numbers(train) == set(range(12)) - validation - test
    assert [train.validation.lines[i] for i in range(4)] == [n + 2 for n in sorted(validation)]
    if cache is None:
        batch = train.validation.read_batch([3, 0])
        assert batch.labels == [train.validation[3].labels, train.validation[0].labels]


def test_a_validation_share_takes_whole_groups_that_are_not_held_out(table: Path) -> None:
    args: dict[str, Any] = {"share": 0.3, "validation_share": 0.4, "cache": False}
    train, held_out = Table(table, RATE, **args), Table(table, RATE, **args, train=False)
    assert train.validation is not None
    parts = [numbers(part) for part in (train, train.validation, held_out)]
    assert set().union(*parts) == set(range(12))
    assert sum(map(len, parts)) == 12
    for first in range(0, 12, 2):  # the two sounds of a recording stay together
        assert len([part for part in parts if {first, first + 1} & part]) == 1
    unvalidated = Table(table, RATE, share=0.3, cache=False, train=False)
    assert numbers(unvalidated) == parts[2]


def test_a_folder_of_splits_trains_without_its_validation_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / split / "dog").mkdir(parents=True)
        soundfile.write(tmp_path / split / "dog" / "a.wav", np.full(100 + number, 1, np.int16), RATE)
    args: dict[str, Any] = {"validation_split": "valid", "cache": False}
    train, held_out = Table(tmp_path, RATE, **args), Table(tmp_path, RATE, **args, train=False)
    assert train.validation is not None
    assert [numbers(part) for part in (train, train.validation, held_out)] == [{0}, {1}, {2}]


def test_a_folder_whose_only_other_split_validates_holds_nothing_out(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        path = tmp_path / split / "dog" / "a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(100), 8000)
    with pytest.raises(ValueError, match="validation_split is given, but nothing is held out; name a fold"):
        Table(tmp_path, 8000, validation_split="valid")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"fold": 1, "validation_fold": 2, "validation_share": 0.2}, "give only one of them"),
        ({"validation_share": 0.2}, "nothing is held out; name a fold"),
        ({"split": "test", "validation_fold": 1}, "validation_fold is given without fold"),
        ({"split": "test", "validation_split": "test"}, "validation_split and the held-out rows overlap"),
        ({"split": "test", "validation_split": ["train", "valid"]}, "none is left to train on"),
        ({"split": "test", "validation_split": "dev"}, "validation_split is dev; .* has test, train, valid"),
        ({"fold": 1, "validation_share": 2}, "validation_share is 2; a number between 0 and 1"),
    ],
)
def test_impossible_validation_rows_are_refused(table: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(table, RATE, cache=False, **args)
