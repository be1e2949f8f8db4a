"""VGGSound on a miniature of the published table: file names, segments of one video, messages."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ignite_trainer.api.self_description import hold_nothing_out
from tests.miniatures import RATE, VGGSOUND_NAMES, write_vggsound
from utils.datasets import VGGSound
from utils.datasets.official import vggsound
from utils.datasets.sources.audioset_files import find_sounds
from utils.datasets.sources.tables import build_without_bad_lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_vggsound(tmp_path / "VGGSound")


def sound(path: Path, number: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(100, number, np.int16), RATE)


def numbers(data: Any) -> list[int]:
    return [int(Path(str(entry.audio)).name[:11]) for entry in data.entries]


def test_train_is_trained_on_and_test_is_held_out(root: Path) -> None:
    train, test = (VGGSound(root, RATE, train=train) for train in (True, False))
    assert (numbers(train), numbers(test)) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])
    assert train.class_names == test.class_names == list(VGGSOUND_NAMES)
    assert [sample.labels for sample in test] == [[name] for name in VGGSOUND_NAMES[1:4]]
    assert hold_nothing_out(train, test) is False
    assert test.held_out_splits == ("test",)
    assert test.record(0) == {"clip": "audio/00000000006_000030.wav", "split": "test"}
    assert test.results_name == "part of VGGSound (3 of 15,496 test clips)"
    assert list(test.sources()) == [f"youtube:{number:011d}" for number in (6, 7, 8)]


def test_a_share_of_the_training_videos_can_choose_the_best_epoch(root: Path) -> None:
    data = VGGSound(root, RATE, validation_share=0.4)
    assert data.validation is not None
    chosen = numbers(data.validation)
    assert 1 <= len(chosen) < 6
    assert sorted(chosen + numbers(data)) == [0, 1, 2, 3, 4, 5]
    assert numbers(VGGSound(root, RATE, train=False, validation_share=0.4)) == [6, 7, 8]
    train, test = (
        VGGSound(root, RATE, train=train, whole=True, validation_share=0.4) for train in (True, False)
    )
    assert hold_nothing_out(train, test) is True
    assert test.validation is None
    splits = {number: test.record(index)["split"] for index, number in enumerate(numbers(test))}
    assert [number for number, split in splits.items() if split == "validation"] == chosen
    assert [number for number, split in splits.items() if split == "test"] == [6, 7, 8]


def test_segments_of_one_video_are_not_confused(root: Path) -> None:
    video = "a_b-000_030"  # ends like a time
    with (root / "vggsound.csv").open("a") as file:
        file.write(
            f"{video},0,dog barking,train\n{video},30,dog barking,train\n{video},31,dog barking,test\n"
        )
    for name, number in (("_000030", 30), ("_0_10", 10), ("_31000_41000", 31), ("_300", 300), ("", 1)):
        sound(root / f"wav/{video}{name}.wav", number)
    train, test = (VGGSound(root, RATE, train=train) for train in (True, False))
    assert "2 files hold another part of their video, or do not say which" in str(train.skipped_notice)
    assert [int(sample.audio[0, 0]) for sample in train][-2:] == [10, 30]
    assert [int(sample.audio[0, 0]) for sample in test][-1:] == [31]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        *(("{}_000030.wav", 30), ("deep/er/{}_30.flac", 30), ("Y{}_30_40.ogg", 30), ("{}.wav", 30)),
        *(("{}_30000_40000.WAV", 30), ("{}_30.0.wav", 30), ("{}_50.wav", None), ("{}_30.mp4", None)),
        *(("x{}_30.wav", None), ("{}_30_40_1.wav", None)),
    ],
)
def test_sounds_are_found_by_video_and_start(tmp_path: Path, name: str, start: int | None) -> None:
    path = tmp_path / name.format("---g-f_I2yQ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    found = find_sounds(tmp_path, {"---g-f_I2yQ": [30]})
    expected = {} if start is None else {("---g-f_I2yQ", start): path.relative_to(tmp_path).as_posix()}
    assert found.paths == expected
    assert found.videos == ({"---g-f_I2yQ"} if path.suffix == ".mp4" else set())


def test_missing_files_are_counted_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "audio/00000000007_000030.wav").rename(root / "audio/00000000007_000030.mp4")
    data = VGGSound(root, RATE, train=False)
    assert numbers(data) == [6, 8]
    data.prepare()
    data.prepare()
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith(
        "vggsound.csv: 15,496 test clips published, 3 listed, 2 with a sound. 1 videos are not decoded here; "
        "extract sounds by `ffmpeg -ss START"
    )
    inspection = VGGSound.inspect_data(root=root, sample_rate=RATE, progress=False)
    assert inspection.summary.startswith("VGGSound: 8 samples, 5 classes")


def test_complete_parts_have_the_name_of_the_data_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vggsound, "PUBLISHED", {"train": 6, "test": 3})
    test = VGGSound(root, RATE, train=False)
    assert (test.results_name, test.skipped_notice) == ("VGGSound", None)
    assert VGGSound(root, RATE, whole=True).results_name == "VGGSound, train and test"
    monkeypatch.setattr(
        vggsound, "PUBLISHED", {"train": 6, "test": 2}
    )  # the table has more clips than the published one
    assert VGGSound(root, RATE, train=False).results_name == "VGGSound, other tables (3 test clips)"


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / "vggsound.csv").read_text()
        assert old in text
        (root / "vggsound.csv").write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit('"bird chirping, tweeting"', "bird chirping, tweeting"), "line 1: 5 values; a line is"),
        (edit("00000000000", "short"), 'youtube_id is "short"; a YouTube identifier of 11 characters'),
        (edit("00000000000", "00000000001"), "a clip of 00000000001 that no earlier line has"),
        (edit(",30,", ",early,"), 'start_seconds is "early"'),
        (edit(",train", ",val"), 'split is "val"; "train" or "test"'),
        (edit("church bell ringing", ""), "label is"),
    ],
)
def test_errors_name_the_line_of_the_table(root: Path, change: Callable[[Path], None], said: str) -> None:
    change(root)
    with pytest.raises(ValueError, match=re.escape(said)):
        VGGSound(root, RATE)
    data, [error] = build_without_bad_lines(lambda: VGGSound(root, RATE))
    assert len(data) == 5
    assert re.search(r"vggsound\.csv, line [12]: ", str(error))


def test_wrong_arguments_and_missing_files_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="whole is 1; true or false is expected"):
        VGGSound(root, RATE, whole=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"validation_share is 1\.5; a number between 0 and 1"):
        VGGSound(root, RATE, validation_share=1.5)
    with pytest.raises(FileNotFoundError, match=r"which has no vggsound\.csv, .*; put the table"):
        VGGSound(tmp_path, RATE)
    with pytest.raises(FileNotFoundError, match=r"media is .*/none, which is not a folder"):
        VGGSound(root, RATE, media=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no sound of any clip .* Names such as YTID_000030"):
        VGGSound(root, RATE, media=tmp_path / "empty")
    monkeypatch.setattr(vggsound, "CLASSES", 5)
    edit("church bell ringing", "church bel ringing")(root)
    with pytest.raises(ValueError, match=r"has 6 labels; VGGSound has 5\. The rarest are"):
        VGGSound(root, RATE)
