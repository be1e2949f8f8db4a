"""AudioSet on a miniature of the official tables: layouts, missing media, labels, messages."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from utils.datasets import AudioSet
from utils.datasets.sample import Sample
from utils.datasets.sources.frames import Frames
from utils.datasets.sources.tables import build_without_bad_lines

RATE = 8000
CLASSES = {
    "/m/09x0r": "Speech",
    "/m/0bt9lr": "Dog",
    "/t/dd00005": "Child speech, kid speaking",
    "/m/07qjznl": "Tick",
}
SEGMENTS = {
    "balanced_train": {
        "--4gqARaEJE": (0, 10, "/m/0bt9lr,/t/dd00005"),
        "--BfvyPmVMo": (20, 30, "/m/09x0r"),
        "Y_-U7XJMQWY": (30, 40, "/m/09x0r,/m/0bt9lr"),  # the identifier itself begins with Y
    },
    "unbalanced_train": {"---1_cCGK4M": (0, 10, "/m/07qjznl"), "---2_BBVHAA": (30, 40, "/m/09x0r")},
    "eval": {f"{i:011d}": (10 * i, 10 * i + 10, "/m/0bt9lr") for i in range(5)},
}


def sound(path: Path, number: int, *, samples: int = 100) -> None:
    """Write a sound with this number as each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, number, np.int16), RATE)


def picture(path: Path, number: int) -> None:
    """Write an image with this number as each pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (number, number, number)).save(path, quality=100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write the tables in their published form, without media."""
    folder = tmp_path / "AudioSet"
    folder.mkdir()
    for name, segments in SEGMENTS.items():
        lines = [
            "# Segments csv created Sun Mar  5 10:54:31 2017",
            f"# num_ytids={len(segments)}, num_segs={len(segments)}, num_unique_labels=4",
            "# YTID, start_seconds, end_seconds, positive_labels",
            *(f'{video}, {begin:.3f}, {end:.3f}, "{mids}"' for video, (begin, end, mids) in segments.items()),
        ]
        (folder / f"{name}_segments.csv").write_text("\n".join(lines) + "\n")
    classes = [f'{number},{mid},"{name}"' for number, (mid, name) in enumerate(CLASSES.items())]
    (folder / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *classes]) + "\n")
    return folder


@pytest.fixture
def full(root: Path) -> Path:
    """Write a sound and an image of every segment, numbered from 1."""
    number = 0
    for name, segments in SEGMENTS.items():
        for video in segments:
            number += 1
            sound(root / f"audio/{name}/{video}.flac", number)
            picture(root / f"frames/{name}/{video}.png", number)
    return root


@pytest.mark.parametrize(
    ("train_on", "numbers"), [("balanced", [1, 2, 3]), ("unbalanced", [4, 5]), ("both", [1, 2, 3, 4, 5])]
)
def test_audioset_trains_on_balanced_unbalanced_or_both_and_evaluates_on_eval(
    full: Path, train_on: Any, numbers: list[int]
) -> None:
    train, test = (AudioSet(full, RATE, train=train, train_on=train_on) for train in (True, False))
    assert [int(sample.audio[0, 0]) for sample in train] == numbers
    assert [int(sample.image[0, 0, 0]) for sample in train] == numbers
    assert [int(sample.audio[0, 0]) for sample in test] == [6, 7, 8, 9, 10]
    assert train.class_names == test.class_names == list(CLASSES.values())
    assert isinstance(train[0], Sample)
    assert train[0].audio.shape == (1, 100)
    if train_on != "unbalanced":
        assert train[0].labels == ["Dog", "Child speech, kid speaking"]
    assert train.skipped_notice is None
    assert test.record(1) == {"clip": "audio/eval/00000000001.flac"}
    assert test.digest != train.digest
    assert list(test.sources()) == [f"youtube:{video}" for video in SEGMENTS["eval"]]


@pytest.mark.parametrize(
    "name",
    [
        *("{video}.flac", "audio/Y{video}.wav", "some/where/{video}_30.wav", "{video}_30_40.wav"),
        *("{video}_30.000_40.000.wav", "wav/Y{video}_30000_40000.WAV", "{video}_000030.ogg"),
    ],
)
@pytest.mark.parametrize("video", ["Y_-U7XJMQWY", "a-U7XJMQWY_"])
def test_sounds_are_found_by_every_usual_name(root: Path, name: str, video: str) -> None:
    table = root / "balanced_train_segments.csv"
    table.write_text(table.read_text().replace("Y_-U7XJMQWY", video))
    sound(root / name.format(video=video), 7)
    data = AudioSet(root, RATE)
    assert [entry.audio for entry in data.entries] == [name.format(video=video)]
    assert ": 3 segments listed, 1 with a sound, 0 with images" in str(data.skipped_notice)


@pytest.mark.parametrize(
    "name",
    [
        "{video}/{n}.jpg",
        "frames/Y{video}/frame_{n:05d}.jpg",  # as long as the identifier of a video
        "frames/{video}_30_40/{n:03d}.png",
        "{video}_{n}.jpg",
        "train/Y{video}_30_40_{n}.jpg",
    ],
)
def test_frames_are_found_by_every_usual_name_in_the_order_of_their_numbers(root: Path, name: str) -> None:
    for n in range(1, 12):
        picture(root / name.format(video="Y_-U7XJMQWY", n=n), 10 * n)
    frames = AudioSet(root, RATE, frames="all")[0].image
    assert isinstance(frames, Frames)
    assert [round(int(frames[i][0, 0, 0]) / 10) for i in range(len(frames))] == list(range(1, 12))
    central = AudioSet(root, RATE)[0]
    assert central.audio is None
    assert round(int(central.image[0, 0, 0]) / 10) == 6


def test_circular_links_to_folders_are_followed_once(root: Path, tmp_path: Path) -> None:
    sound(tmp_path / "elsewhere/--4gqARaEJE.wav", 1)
    (root / "audio").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(root)
    assert [entry.audio for entry in AudioSet(root, RATE).entries] == ["audio/--4gqARaEJE.wav"]


def test_missing_files_are_counted_and_reported_once(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    (full / "audio/eval/00000000000.flac").unlink()
    (full / "audio/eval/00000000001.flac").unlink()
    (full / "frames/eval/00000000001.png").unlink()
    (full / "frames/eval/00000000002.png").unlink()
    data = AudioSet(full, RATE, train=False)
    assert not caplog.records
    data.prepare()
    data.prepare()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "eval_segments.csv: 5 segments listed, 3 with a sound, 3 with images, 2 with both; "
        "4 (80.0%) are used."
    )
    missing = [(sample.audio is None, sample.image is None) for sample in data]
    assert missing == [(True, False), (False, True), (False, False), (False, False)]
    assert data.results_name == "part of AudioSet (4 of 20,371 segments)"
    sounds = AudioSet(full, RATE, train=False, modalities=["audio"])
    assert [(len(sample.audio), sample.image) for sample in sounds] == [(1, None)] * 3
    whole = AudioSet(full, RATE, train=False, complete=True)
    assert [int(sample.audio[0, 0]) for sample in whole] == [9, 10]


def test_videos_and_other_parts_are_reported(root: Path) -> None:
    sound(root / "--BfvyPmVMo_20_30.wav", 1)
    sound(root / "Y_-U7XJMQWY_50_60.wav", 1)
    (root / "--4gqARaEJE.mp4").write_bytes(b"")
    notice = AudioSet(root, RATE).skipped_notice
    assert notice is not None
    assert "1 (33.3%) are used. 1 files hold another part of their video" in notice
    assert "such as Y_-U7XJMQWY_50_60.wav. 1 segments have only a video" in notice
    assert "ffmpeg -i YTID.mp4 -ac 1 -ar 44100 audio/YTID.flac" in notice


def test_a_start_in_seconds_is_not_mistaken_for_milliseconds(root: Path) -> None:
    sound(root / "--4gqARaEJE_30_40.wav", 1)  # the segment starts at 0
    sound(root / "--BfvyPmVMo_20000_30000.wav", 2)
    data = AudioSet(root, RATE)
    assert [entry.audio for entry in data.entries] == ["--BfvyPmVMo_20000_30000.wav"]
    assert "such as --4gqARaEJE_30_40.wav" in str(data.skipped_notice)


def test_segments_are_read_from_complete_videos(root: Path) -> None:
    path = root / "--BfvyPmVMo.wav"
    soundfile.write(path, np.repeat(np.arange(40), RATE).astype(np.int16), RATE)
    sample = AudioSet(root, RATE, whole_videos=True)[0]
    assert np.array_equal(sample.audio[0], np.repeat(np.arange(20, 30), RATE))


def test_parents_are_added_from_the_ontology(full: Path) -> None:
    ontology = [
        {"id": "human", "child_ids": ["/m/09x0r"]},  # not a class
        {"id": "/m/09x0r", "child_ids": ["voice", "human"]},  # a cycle; the published ontology has none
        {"id": "voice", "child_ids": ["/t/dd00005"]},
        {"id": "/t/dd00005", "child_ids": []},
    ]
    (full / "ontology.json").write_text(json.dumps(ontology), encoding="utf-8-sig")
    data = AudioSet(full, RATE, parents=True)
    assert [sample.labels for sample in data] == [
        ["Dog", "Child speech, kid speaking", "Speech"],
        ["Speech"],
        ["Speech", "Dog"],
    ]
    (full / "ontology.json").write_text("{}")
    with pytest.raises(ValueError, match=r"ontology\.json is not AudioSet's ontology"):
        AudioSet(full, RATE, parents=True)


def append(line: str, table: str = "balanced_train_segments.csv") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / table
        path.write_text(path.read_text() + line + "\n")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (append('short, 0.000, 10.000, "/m/09x0r"'), 'line 7: YTID is "short"; a YouTube identifier'),
        (append('0123456789a, 10.000, 10.000, "/m/09x0r"'), "line 7: end_seconds is"),
        (append('0123456789a, x, 10.000, "/m/09x0r"'), 'line 7: start_seconds is "x"'),
        (append('0123456789a, 0.000, nan, "/m/09x0r"'), 'line 7: end_seconds is "nan"'),
        (append('0123456789a, 0.000, 10.000, "/m/none"'), "which has no /m/none"),
        (append('0123456789a, 0.000, 10.000, ""'), "which has no empty"),
        (append("0123456789a, 0.000, 10.000, /m/09x0r,/m/0bt9lr"), "line 7: 5 values instead of 4"),
        (append('--4gqARaEJE, 30.000, 40.000, "/m/09x0r"'), "a video that no earlier line has"),
        (append("7,/m/new,New", "class_labels_indices.csv"), "line 6: index is 7; 4 is expected"),
        (append("4,/m/09x0r,New", "class_labels_indices.csv"), "is listed a second time"),
        (append("4,/m/new,Dog", "class_labels_indices.csv"), "is listed a second time"),
    ],
)
def test_errors_name_the_line_of_a_table(full: Path, change: Callable[[Path], None], said: str) -> None:
    change(full)
    with pytest.raises(ValueError, match=re.escape(said)):
        AudioSet(full, RATE)
    if "line 7" in said:
        data, [error] = build_without_bad_lines(lambda: AudioSet(full, RATE))
        assert len(data) == 3
        assert said in str(error)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"train_on": "all"}, 'train_on is \'all\'; "balanced", "unbalanced" or "both"'),
        ({"modalities": "audio"}, "modalities is 'audio'; a list"),
        ({"modalities": []}, "modalities is []; a list"),
        ({"modalities": ["video"]}, "modalities is ['video']; a list"),
        ({"complete": "yes"}, "complete is 'yes'; true or false"),
    ],
)
def test_wrong_arguments_are_named(full: Path, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        AudioSet(full, RATE, **args)


def test_missing_tables_and_media_are_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no sound or image for any segment of eval_segments\.csv"):
        AudioSet(root, RATE, train=False)
    (root / "00000000001.mp4").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"1 segments have only a video.*ffmpeg"):
        AudioSet(root, RATE, train=False)
    sound(root / "00000000001.wav", 1)
    with pytest.raises(FileNotFoundError, match=r"no sound and image for any segment of eval_segments\.csv"):
        AudioSet(root, RATE, train=False, complete=True)
    with pytest.raises(
        FileNotFoundError, match=r"media is .*not a folder\. .* --Dataset\.args\.media FOLDER"
    ):
        AudioSet(root, RATE, media=tmp_path / "none")
    (root / "metadata").mkdir()
    (root / "eval_segments.csv").rename(root / "metadata/eval_segments.csv")
    assert len(AudioSet(root, RATE, train=False, media=root)) == 1
    (root / "metadata/eval_segments.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"which has no eval_segments\.csv, nor do its folders csv/, meta/"
    ):
        AudioSet(root, RATE, train=False)


def test_training_segments_of_videos_in_another_set_are_left_out(full: Path, tmp_path: Path) -> None:
    captions = tmp_path / "AudioCaps"
    captions.mkdir()
    rows = ["1,--BfvyPmVMo,20,A man speaks", "2,---2_BBVHAA,30,A clock ticks", "3,00000000001,10,A dog barks"]
    (captions / "test.csv").write_text("\n".join(["audiocap_id,youtube_id,start_time,caption", *rows]))
    args: dict[str, Any] = {"train_on": "both", "exclude": f"AudioCaps:{captions}"}
    train, test = (AudioSet(full, RATE, train=train, **args) for train in (True, False))
    assert [int(sample.audio[0, 0]) for sample in train] == [1, 3, 4]
    assert len(test) == 5
    assert dict(train.excluded) == {"AudioCaps": 2}
