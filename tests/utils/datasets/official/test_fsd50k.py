"""FSD50K on a miniature in the published layout: splits, names, missing files, messages."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.api.self_description import hold_nothing_out
from tests.miniatures import FSD50K_NAMES, RATE, write_fsd50k
from utils.datasets import FSD50K
from utils.datasets.official import fsd50k
from utils.datasets.sources.tables import build_without_bad_lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_fsd50k(tmp_path / "FSD50K")


def numbers(data: Any) -> list[str]:
    return [Path(str(entry.audio)).stem for entry in data.entries]


def test_dev_is_trained_on_and_eval_is_held_out(root: Path) -> None:
    train, test = (FSD50K(root, RATE, train=train) for train in (True, False))
    assert numbers(train) == [str(number) for number in range(1000, 1008)]
    assert numbers(test) == [str(number) for number in range(1008, 1012)]
    assert train.class_names == test.class_names == list(FSD50K_NAMES)
    assert [sample.labels for sample in test] == [
        ["bass guitar", "guitar"],
        ["chirp and tweet"],
        ["guitar"],
        ["chirp and tweet", "human group actions"],
    ]
    assert test[0].audio.shape == (1, RATE // 5)
    assert abs(test[0].audio).max() > 1000  # 16-bit units
    assert train.validation is None
    assert hold_nothing_out(train, test) is False
    assert test.held_out_splits == ("eval",)
    assert test.record(0) == {"clip": "FSD50K.eval_audio/1008.wav", "split": "test"}
    assert list(test.sources()) == [f"freesound:{number}" for number in range(1008, 1012)]


def test_the_official_validation_clips_can_choose_the_best_epoch(root: Path) -> None:
    data = FSD50K(root, RATE, validation=True)
    assert data.validation is not None
    assert numbers(data) == ["1000", "1001", "1002", "1003", "1004"]
    assert numbers(data.validation) == ["1005", "1006", "1007"]
    assert data.validation.record(0) == {"clip": "FSD50K.dev_audio/1005.wav", "split": "validation"}
    assert len(FSD50K(root, RATE, train=False, validation=True)) == 4


def test_the_whole_data_set_tells_the_split_of_each_clip(root: Path) -> None:
    train, test = (FSD50K(root, RATE, train=train, whole=True) for train in (True, False))
    assert [test.record(index)["split"] for index in range(12)] == (
        ["train"] * 5 + ["validation"] * 3 + ["test"] * 4
    )
    assert hold_nothing_out(train, test) is True
    assert test.held_out_splits == ()


def test_missing_files_are_counted_and_named_in_the_results(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "FSD50K.eval_audio/1009.wav").unlink()
    data = FSD50K(root, RATE, train=False)
    assert numbers(data) == ["1008", "1010", "1011"]
    assert data.results_name == "part of FSD50K (3 of 10,231 eval clips)"
    data.prepare()
    data.prepare()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "eval.csv: 10,231 eval clips published, 4 listed, 3 with a sound."
    ]
    whole = FSD50K(root, RATE, whole=True)
    assert whole.results_name == "part of FSD50K (11 of 51,197 dev and eval clips)"
    assert str(whole.skipped_notice).count("with a sound") == 2
    assert FSD50K(root, RATE, train=False, whole=True).skipped_notice is None  # said once


def test_complete_parts_have_the_name_of_the_data_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsd50k, "PUBLISHED", {"dev": 8, "eval": 4})
    test = FSD50K(root, RATE, train=False)
    assert (test.results_name, test.skipped_notice) == ("FSD50K", None)
    assert FSD50K(root, RATE, whole=True).results_name == "FSD50K, dev and eval"
    monkeypatch.setattr(
        fsd50k, "PUBLISHED", {"dev": 8, "eval": 3}
    )  # the table has more clips than the published one
    assert FSD50K(root, RATE, train=False).results_name == "FSD50K, other tables (4 eval clips)"


def test_evaluation_needs_no_dev_clips_and_other_formats_are_found(root: Path) -> None:
    for file in (root / "FSD50K.dev_audio").iterdir():
        file.unlink()
    (root / "FSD50K.dev_audio").rmdir()
    (root / "FSD50K.eval_audio/1008.wav").rename(root / "FSD50K.eval_audio/1008.FLAC")
    assert len(FSD50K(root, RATE, train=False)) == 4
    with pytest.raises(FileNotFoundError, match=r"dev_audio has no sound of any clip .*needs no dev clips"):
        FSD50K(root, RATE)


def test_check_reports_missing_files_and_counts_samples(root: Path) -> None:
    (root / "FSD50K.dev_audio/1000.wav").unlink()
    inspection = FSD50K.inspect_data(root=root, sample_rate=RATE, validation=True, progress=False)
    assert inspection.summary.startswith("FSD50K: 11 samples, 4 classes")
    places = [finding.where for finding in inspection.findings if finding.what.startswith("Part of")]
    assert places[0] == "dev.csv: 40,966 dev clips published, 8 listed, 7 with a sound."
    alone = FSD50K.inspect_data(root=root, sample_rate=RATE, train=False, progress=False)
    assert alone.summary.startswith("FSD50K: 4 samples, 4 classes")


def edit(table: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / f"FSD50K.ground_truth/{table}.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("dev", '"Bass_guitar,Guitar"', '"Bass_guitar,Gitar"'), 'vocabulary.csv, which has no "Gitar"'),
        (edit("dev", '"Bass_guitar,Guitar"', '"Bass_guitar,"'), 'which has no ""'),
        (edit("dev", '"Bass_guitar,Guitar"', ""), "labels is"),
        (edit("dev", '"Bass_guitar,Guitar"', "Bass_guitar,Guitar"), "more values than columns"),
        (edit("dev", "1000,", "1001,"), 'fname is "1001"; a clip that no earlier line has'),
        (edit("dev", "1000,", "../1000,"), "a file name without a folder"),
        (edit("dev", ",train", ",test"), 'split is "test"; "train" or "val"'),
    ],
)
def test_errors_name_the_line_of_a_table(root: Path, change: Callable[[Path], None], said: str) -> None:
    change(root)
    with pytest.raises(ValueError, match=re.escape(said)):
        FSD50K(root, RATE)
    data, [error] = build_without_bad_lines(lambda: FSD50K(root, RATE))
    assert len(data) == 7
    assert re.search(r"dev\.csv, line [23]: ", str(error))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            edit("vocabulary", "1,Chirp", "2,Chirp"),
            'line 2 is "2,Chirp_and_tweet,/m/1"; `1,label,identifier`',
        ),
        (edit("vocabulary", "0,Bass_guitar", "0,guitar"), '"Guitar" is listed a second time'),
        (edit("vocabulary", "0,Bass_guitar,", "0,Bass_guitar"), "`0,label,identifier` is expected"),
        (lambda root: (root / "FSD50K.ground_truth/vocabulary.csv").write_text("\n"), "lists no classes"),
        (edit("dev", "fname,labels", "fname,tags"), "dev.csv has no column labels"),
    ],
)
def test_faulty_tables_are_refused(root: Path, change: Callable[[Path], Any], said: str) -> None:
    change(root)
    with pytest.raises(ValueError, match=re.escape(said)):
        FSD50K(root, RATE)


def test_wrong_arguments_and_missing_tables_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole is 'yes'; true or false is expected"):
        FSD50K(root, RATE, whole="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validation and whole are true"):
        FSD50K(root, RATE, whole=True, validation=True)
    with pytest.raises(
        FileNotFoundError, match=r"which has no FSD50K\.ground_truth/vocabulary\.csv\. Unpack"
    ):
        FSD50K(tmp_path, RATE)
    edit("dev", ",val", ",train")(root)
    edit("dev", ",val", ",train")(root)
    edit("dev", ",val", ",train")(root)
    with pytest.raises(ValueError, match=r'no clip of the split "val" has a sound \(dev\.csv: '):
        FSD50K(root, RATE, validation=True)
    edit("dev", "1000,", "1008,")(root)
    (root / "FSD50K.dev_audio/1000.wav").rename(root / "FSD50K.dev_audio/1008.wav")
    with pytest.raises(ValueError, match=r"dev\.csv and eval\.csv both list the clips 1008\."):
        FSD50K(root, RATE, whole=True)
