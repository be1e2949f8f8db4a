"""A recording in both training and evaluation is found by `--check` and left out by name."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.protocol.identity import classes_of, digest, identity
from ignite_trainer.protocol.loading import load
from ignite_trainer.runs.preflight import shared_recordings
from tests.system.conftest import DEFAULTS, ROOT, Command
from utils.datasets import ESC50, MadeSounds, UrbanSound8K

SHARED = "A training sample comes from a recording that is also evaluated"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write 6 clips in each of 5 folds, in ESC-50's layout; fold 3 has recordings of folds 1 and 2."""
    made = MadeSounds(tmp_path / "made", seconds=0.2, clips_per_class_and_fold=1, cache=tmp_path / "cache")
    table = made.root / made.table
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_fold = {fold: [row for row in rows if row["fold"] == str(fold)] for fold in (1, 2, 3)}
    of_fold[3][0]["src_file"] = of_fold[1][4]["src_file"]
    of_fold[3][5]["src_file"] = of_fold[2][1]["src_file"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return made.root


@pytest.fixture
def small(root: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a protocol for the clips, with arguments of the data set."""

    def protocol(**args: Any) -> dict[str, Any]:
        dataset = {"root": str(root), "cache": str(tmp_path / "cache"), "fold": 1, **args}
        return {
            "extends": str(ROOT / "protocols/quickstart.json"),
            "Setup": {"epochs": 1, "batch_train": 6, "batch_test": 8, "workers_train": 0, "workers_test": 0},
            "Dataset": {"class": "utils.datasets.ESC50", "args": dataset},
        }

    return protocol


def test_check_finds_a_planted_recording_in_training_and_evaluation(
    small: Callable[..., dict[str, Any]], command: Command
) -> None:
    report = command(small(), "--check").out
    assert f"warning: {SHARED}.\n" in report
    (place,) = [line.strip() for line in report.splitlines() if ": freesound:" in line]
    assert place == (
        "meta/esc50.csv: audio/3-100012-A-0.wav: freesound:100004 "
        "(held out, meta/esc50.csv: audio/1-100004-A-4.wav)"
    )
    assert "Hold all samples of a recording out together, or leave these out" in report
    of_both = command(small(validation_fold=2), "--check").out
    assert f"warning: {SHARED}. (2 times)\n" in of_both
    assert "(validation, meta/esc50.csv: audio/2-100007-A-1.wav)" in of_both
    assert SHARED not in command(small(fold=4), "--check").out


def test_check_finds_a_recording_in_validation_and_evaluation(
    small: Callable[..., dict[str, Any]], command: Command
) -> None:
    what = "A validation sample, which chooses the epoch, comes from a recording that is held out"
    report = command(small(validation_fold=3), "--check").out
    assert f"warning: {what}.\n" in report
    assert (
        "meta/esc50.csv: audio/3-100012-A-0.wav: freesound:100004 "
        "(held out, meta/esc50.csv: audio/1-100004-A-4.wav)"
    ) in report
    assert what not in command(small(validation_fold=2), "--check").out


def test_a_known_set_is_excluded_by_name_and_the_number_is_reported(
    small: Callable[..., dict[str, Any]],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "data/UrbanSound8K/metadata/UrbanSound8K.csv"
    table.parent.mkdir(parents=True)
    table.write_text(
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100004-3-0-0.wav,100004,0.0,1.0,1,5,3,dog_bark\n"
    )
    protocol = small(exclude="UrbanSound8K")
    assert SHARED not in command(protocol, "--check").out
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        done = command(protocol, "-S")
    assert done.status == 0
    left_out = "1 of 24 training samples are left out, because their recordings are in UrbanSound8K (1)."
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [f"ESC-50: {left_out}"]
    assert "Left out of training" in done.out
    (path,) = (tmp_path / "results").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["excluded"] == {"UrbanSound8K": 1}
    assert record["samples"] == {"train": 23, "test": 6}
    assert "UrbanSound8K 1" in (path.parent / "report.html").read_text()


def test_exclusion_belongs_to_the_variant_of_a_run(
    small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def variant(**args: Any) -> str:
        (tmp_path / "protocol.json").write_text(json.dumps(small(**args)))
        protocol = load(tmp_path / "protocol.json", defaults=DEFAULTS)
        return digest(identity(protocol, classes_of(protocol)))

    assert variant() == variant(fold=2) != variant(exclude="UrbanSound8K")
    assert variant(exclude="UrbanSound8K") != variant(exclude=["UrbanSound8K", "FSD50K"])


@pytest.mark.real_data
@pytest.mark.parametrize(("kind", "name"), [(ESC50, "esc18"), (UrbanSound8K, "us8k-mini")])
def test_official_folds_are_clean(
    kind: type[ESC50 | UrbanSound8K], name: str, real_data: Callable[[str], Path]
) -> None:
    root = real_data(name)
    for fold in kind(root).folds:
        train, test = (kind(root, fold=fold, validation_fold="next", train=train) for train in (True, False))
        assert any(train.sources()) and any(test.sources())
        assert list(shared_recordings(train, test)) == []
