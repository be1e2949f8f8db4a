"""Clotho and AudioCaps in their published layouts: splits, captions, missing sounds, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.api.batch import Alternatives
from tests.miniatures import AUDIOCAPS_VIDEOS as VIDEOS
from tests.miniatures import CLOTHO_CLIPS, RATE, write_audiocaps, write_clotho, write_noise
from utils.datasets import AudioCaps, Clotho, Shards
from utils.shards.making import Options, make


@pytest.fixture
def clotho(tmp_path: Path) -> Path:
    return write_clotho(tmp_path)


@pytest.fixture
def audiocaps(tmp_path: Path) -> Path:
    return write_audiocaps(tmp_path)


def small(kind: type[Any], root: Path, **args: Any) -> Any:
    return kind(root, RATE, cache=False, **args)


def texts(data: Any) -> list[Any]:
    return [tuple(data[index])[3] for index in range(len(data))]


@pytest.mark.parametrize(
    ("kind", "write", "table", "caption"),
    [
        (Clotho, write_clotho, "clotho_captions_evaluation.csv", "caption {} of evaluation 1"),
        (AudioCaps, write_audiocaps, "test.csv", "test caption {} of 7"),
    ],
)
def test_equal_captions_of_a_clip_each_count(
    tmp_path: Path, kind: type[Any], write: Any, table: str, caption: str
) -> None:
    path = write(tmp_path) / table
    content = path.read_text()
    assert caption.format(2) in content
    path.write_text(content.replace(caption.format(2), caption.format(3)))
    test = small(kind, tmp_path, train=False)
    (found,) = [texts_of for texts_of in texts(test) if caption.format(3) in texts_of]
    assert (len(found), found.count(caption.format(3))) == (5, 2)
    make({None: test}, tmp_path / "shards", Options(), made_from={})
    shards = Shards(str(tmp_path / "shards/manifest.jsonl"), RATE)
    assert sorted(texts(shards)) == sorted(texts(test))


# Clotho


def test_clotho_has_its_official_splits_and_five_captions_a_clip(clotho: Path) -> None:
    train, test = small(Clotho, clotho), small(Clotho, clotho, train=False)
    assert (len(train), len(test)) == (CLOTHO_CLIPS["development"], CLOTHO_CLIPS["evaluation"])
    assert [train.record(0), test.record(1)] == [
        {"clip": "development/Clip  0.wav", "split": "train"},
        {"clip": "evaluation/Clip  1.wav", "split": "test"},
    ]
    sound, image, labels, captions = test[1]
    assert (image, labels) == (None, [])
    assert sound.shape == (1, 801)
    assert isinstance(captions, Alternatives)
    assert captions == tuple(f"caption {number} of evaluation 1" for number in range(1, 6))
    assert train.validation is None
    assert (train.held_out_splits, test.held_out_splits) == ((), ("evaluation",))
    assert test.class_names == []


def test_the_validation_clips_of_clotho_are_used_only_to_choose_an_epoch(clotho: Path) -> None:
    train = small(Clotho, clotho, validation=True)
    assert len(train) == CLOTHO_CLIPS["development"]
    assert train.validation is not None
    chosen = [train.validation.record(index) for index in range(len(train.validation))]
    assert {record["split"] for record in chosen} == {"validation"}
    assert [record["clip"] for record in chosen] == ["validation/Clip  0.wav", "validation/Clip  1.wav"]
    assert texts(train.validation)[0][4] == "caption 5 of validation 0"


def test_the_archives_of_clotho_may_be_unpacked_into_folders_of_their_names(clotho: Path) -> None:
    (clotho / "evaluation").rename(clotho / "x")
    (clotho / "clotho_audio_evaluation").mkdir()
    (clotho / "x").rename(clotho / "clotho_audio_evaluation/evaluation")
    test = small(Clotho, clotho, train=False)
    assert test.record(0)["clip"] == "clotho_audio_evaluation/evaluation/Clip  0.wav"
    (clotho / "clotho_audio_evaluation/evaluation").rename(clotho / "x")
    (clotho / "clotho_audio_evaluation").rmdir()
    (clotho / "x").rename(clotho / "clotho_audio_evaluation")
    assert small(Clotho, clotho, train=False).digest != test.digest


def test_sounds_of_clotho_in_another_format_and_names_with_spaces_are_found(clotho: Path) -> None:
    (clotho / "evaluation/Clip  0.wav").unlink()
    write_noise(clotho / "evaluation/Clip  0.flac", 0)
    (clotho / "evaluation/Clip  1.wav").rename(clotho / "evaluation/ Clip  1.wav")
    test = small(Clotho, clotho, train=False)
    assert [entry.audio for entry in test.entries][:2] == [
        "evaluation/Clip  0.flac",
        "evaluation/ Clip  1.wav",
    ]


def test_recordings_of_clotho_are_read_from_its_metadata_in_latin_1(clotho: Path) -> None:
    assert list(small(Clotho, clotho, train=False).sources()) == ["freesound:1001", None, "freesound:1003"]
    assert next(small(Clotho, clotho).sources()) == "freesound:1"
    (clotho / "clotho_metadata_evaluation.csv").unlink()
    assert set(small(Clotho, clotho, train=False).sources()) == {None}


def test_recordings_of_the_evaluation_clips_can_be_excluded_from_training(clotho: Path) -> None:
    table = clotho / "clotho_metadata_development.csv"
    table.write_bytes(table.read_bytes().replace(b"a;b,2,", b"a;b,1003,"))
    train = small(Clotho, clotho, exclude=f"Clotho:{clotho}")
    assert [entry.source for entry in train.entries] == ["freesound:1", "freesound:3", "freesound:4"]


def test_missing_sounds_of_clotho_are_counted(clotho: Path, caplog: pytest.LogCaptureFixture) -> None:
    (clotho / "evaluation/Clip  2.wav").unlink()
    test = small(Clotho, clotho, train=False)
    assert test.results_name == "part of Clotho (2 of 1,045 evaluation clips)"
    test.prepare()
    said = "clotho_captions_evaluation.csv: 1,045 evaluation clips published, 3 listed, 2 with a sound."
    assert said in caplog.text


def test_complete_clotho_is_named_so(clotho: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in CLOTHO_CLIPS.items():
        monkeypatch.setitem(Clotho.__init__.__globals__["PUBLISHED"], name, count)
    test = small(Clotho, clotho, train=False)
    assert (test.results_name, test.skipped_notice) == ("Clotho", None)


def test_what_clotho_lacks_is_named_with_where_to_get_it(clotho: Path) -> None:
    for name in ("Clip  0.wav", "Clip  1.wav", "Clip  2.wav"):
        (clotho / "evaluation" / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"evaluation has no sound of any clip .*zenodo.org/records/4783391"
    ):
        small(Clotho, clotho, train=False)
    (clotho / "clotho_captions_development.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no clotho_captions_development.csv\. Download"):
        small(Clotho, clotho)
    with pytest.raises(ValueError, match=r'^validation is "yes"|^validation is .yes.; true or false'):
        small(Clotho, clotho, validation="yes")


def test_a_clip_listed_twice_in_clotho_is_refused(clotho: Path) -> None:
    table = clotho / "clotho_captions_evaluation.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(ValueError, match=r"line 5: file_name is .* a clip that no earlier line has"):
        small(Clotho, clotho, train=False)


def test_clotho_can_be_checked(clotho: Path) -> None:
    inspection = Clotho.inspect_data(
        root=str(clotho), sample_rate=RATE, cache=False, progress=False, validation=True
    )
    assert inspection.summary.startswith("Clotho: 9 samples, 0 classes, 45 captions, ")
    assert all(finding.severity == "warning" for finding in inspection.findings)


# AudioCaps


def test_audiocaps_has_its_official_splits(audiocaps: Path) -> None:
    train, test = small(AudioCaps, audiocaps), small(AudioCaps, audiocaps, train=False)
    assert texts(train) == [f"a train caption of {clip}" for clip in range(4)]
    assert texts(test) == [
        tuple(f"test caption {number} of {clip}" for number in range(5)) for clip in (6, 7)
    ]
    assert [test.record(0), train.record(2)] == [
        {"clip": f"audio/test/{VIDEOS[6]}.wav", "split": "test"},
        {"clip": f"audio/train/{VIDEOS[2]}_30_40.wav", "split": "train"},
    ]
    assert list(test.sources()) == [f"youtube:{VIDEOS[6]}", f"youtube:{VIDEOS[7]}"]
    validation = small(AudioCaps, audiocaps, validation=True).validation
    assert [len(captions) for captions in texts(validation)] == [5, 5]
    assert (train.held_out_splits, test.held_out_splits) == ((), ("test",))


def test_missing_sounds_of_audiocaps_are_counted(audiocaps: Path, caplog: pytest.LogCaptureFixture) -> None:
    (audiocaps / f"audio/test/{VIDEOS[7]}.wav").rename(audiocaps / f"audio/test/{VIDEOS[7]}.webm")
    (audiocaps / f"audio/test/{VIDEOS[6]}_77.wav").write_bytes(b"")
    test = small(AudioCaps, audiocaps, train=False)
    assert test.results_name == "part of AudioCaps (1 of 975 test clips)"
    test.prepare()
    assert "test.csv: 975 test clips published, 2 listed, 1 with a sound." in caplog.text
    other = f"audio/test/{VIDEOS[6]}_77.wav"
    assert f"1 files hold another part of their video, or do not say which, such as {other}." in caplog.text
    assert "1 videos are not decoded here" in caplog.text


def test_sounds_of_audiocaps_may_be_elsewhere_and_whole_videos(audiocaps: Path, tmp_path: Path) -> None:
    media = tmp_path / "videos"
    for number in (6, 7):
        write_noise(media / f"deep/Y{VIDEOS[number]}.wav", number, samples=60 * RATE)
    (audiocaps / "dataset").mkdir()
    (audiocaps / "test.csv").rename(audiocaps / "dataset/test.csv")
    test = small(AudioCaps, audiocaps, train=False, media=media, whole_videos=True)
    assert [entry.segment for entry in test.entries] == [(30.0, 40.0), (30.0, 40.0)]
    assert test[0].audio.shape == (1, 10 * RATE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9,short,30,a dog", r"line 2: youtube_id is \"short\"; a YouTube identifier of 11 characters"),
        (f"9,{VIDEOS[6]},soon,a dog", r"line 2: start_time is \"soon\"; a number of zero or more"),
        (f"9,{VIDEOS[6]},,a dog", r"line 2: start_time is \"\"; a time in seconds"),
        (f"9,{VIDEOS[6]},30,", r"line 2: caption is \"\"; a caption is expected"),
    ],
)
def test_wrong_lines_of_audiocaps_are_named(audiocaps: Path, line: str, message: str) -> None:
    (audiocaps / "test.csv").write_text(f"audiocap_id,youtube_id,start_time,caption\n{line}\n")
    with pytest.raises(ValueError, match=message):
        small(AudioCaps, audiocaps, train=False)


def test_what_audiocaps_lacks_is_named_with_where_to_get_it(audiocaps: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^media is .*, which is not a folder"):
        small(AudioCaps, audiocaps, media=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no sound of any clip .*2 listed, 0 with a sound"):
        small(AudioCaps, audiocaps, train=False, media=tmp_path / "empty")
    (audiocaps / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no test\.csv, .*; put train\.csv, val\.csv and"):
        small(AudioCaps, audiocaps, train=False)
