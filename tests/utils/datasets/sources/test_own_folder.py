"""A folder for each class: files, links, splits, and messages about files that are not read."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from model.storage.walking import files_below
from utils.datasets import Table
from utils.datasets.checks.folds import inspect_clips
from utils.datasets.made_sounds import MadeSounds
from utils.datasets.sample import Entries, Entry

RATE = 8000
FORMATS = {"aif": ("AIFF", None), "opus": ("OGG", "OPUS"), "oga": ("OGG", "VORBIS")}


def put(folder: Path, *paths: str) -> Path:
    """Write sounds, images and other files with different contents."""
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        target, suffix = file, file.suffix[1:]
        file = folder / f"written.{suffix}"  # soundfile accepts only names in UTF-8
        if suffix in {"wav", "flac", "aif", "opus", "oga", "mp3"}:
            sound = np.random.default_rng(number).uniform(-0.5, 0.5, 2000)
            kind, subtype = FORMATS.get(suffix, (None, None))
            soundfile.write(file, sound, RATE, format=kind, subtype=subtype)
        elif suffix in {"png", "jpg", "gif", "tif"}:
            Image.new("RGB", (5, 3), (number, 20, 30)).save(file)
        else:
            file.write_bytes(b"content")
        file.rename(target)
    return folder


def samples(folder: Path, **args: Any) -> dict[str, list[str]]:
    """Return labels by name of the clip."""
    data = Table(folder, RATE, cache=False, **args)
    return {str(data.record(index)["clip"]): list(data.entries[index].labels) for index in range(len(data))}


def test_sounds_and_images_of_all_decodable_kinds_are_read(tmp_path: Path) -> None:
    names = ["dog/1.opus", "dog/2.oga", "dog/3.gif", "cat/x/4.tif", "cat/5.mp3", "cat/6.WAV", "cat/7.aif"]
    put(tmp_path, *names[:5], "cat/6.wav", "cat/7.aif")
    (tmp_path / "cat/6.wav").rename(tmp_path / "cat/6.WAV")
    data = Table(tmp_path, RATE, cache=False)
    assert sorted(str(data.record(index)["clip"]) for index in range(7)) == sorted(names)
    assert sum(data[index].audio is not None for index in range(7)) == 5
    assert sum(data[index].image is not None for index in range(7)) == 2
    assert data.ignored_notice is None


def test_a_run_and_the_check_report_files_that_are_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "dog/1.wav", "dog/2.m4a", "dog/3.M4A", "dog/4.webm", "dog/5.heic", "dog/notes.txt", "dog/6")
    put(tmp_path, "top.wav", "README.md", "only_m4a/1.m4a", "dog/.hidden.m4a", ".git/x.wav", "__MACOSX/a.wav")
    (tmp_path / "nothing").mkdir()
    said = (
        f"{tmp_path}: Not read: 1 without a suffix, 1 .txt; 1 .heic (convert it, for example with `magick "
        "x.heic x.jpg`); 3 .m4a, 1 .webm (convert it, for example with `ffmpeg -i x.m4a x.flac`); 1 outside "
        "the class folders, such as top.wav; classes without a supported sound or image: nothing, only_m4a."
    )
    with caplog.at_level(logging.WARNING):
        for train in (True, False):
            Table(tmp_path, RATE, train=train, cache=False).prepare()
    assert caplog.messages == [said]
    inspection = Table.inspect_data(table=str(tmp_path), sample_rate=RATE)
    assert [(one.severity, one.what, one.where) for one in inspection.findings] == [
        ("warning", "Not everything is used as it is listed.", said)
    ]


def test_an_error_names_the_kinds_of_files_that_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.m4a", "cat/2.m4a")
    with pytest.raises(
        ValueError, match=r"in class folders\. Not read: 2 \.m4a \(convert it, for example with `ffmpeg"
    ):
        Table(tmp_path)


def test_links_are_followed_and_each_folder_is_entered_once(tmp_path: Path) -> None:
    put(tmp_path / "store", "dogs/1.wav", "dogs/old/2.wav", "3.wav")
    root = put(tmp_path / "root", "cat/4.wav")
    (root / "dog").symlink_to(tmp_path / "store/dogs")
    (root / "wolf").symlink_to(tmp_path / "store/dogs")
    (root / "cat/3.wav").symlink_to(tmp_path / "store/3.wav")
    (root / "cat/up").symlink_to(root)
    (root / "cat/self").symlink_to(root / "cat")
    (tmp_path / "store/dogs/back").symlink_to(root / "cat")
    assert samples(root) == {
        "cat/3.wav": ["cat"],
        "cat/4.wav": ["cat"],
        "dog/1.wav": ["dog"],
        "dog/old/2.wav": ["dog"],
    }
    assert Table(root, RATE, cache=False).ignored_notice == (
        f"{root}: Not read: classes without a supported sound or image: wolf; links to folders that are "
        "read already: wolf, cat/self, cat/up, dog/back."
    )


def test_a_class_keeps_files_that_another_class_links_to(tmp_path: Path) -> None:
    put(tmp_path, "store/young/1.wav", "store/2.wav", "root/b/3.wav")
    root = put(tmp_path / "root", "a/4.wav", "b/deep/5.wav")
    (root / "a/all_of_b").symlink_to(root / "b")
    (root / "a/young").symlink_to(tmp_path / "store/young")
    (root / "dog").symlink_to(tmp_path / "store")
    (root / "puppy").symlink_to(tmp_path / "store/young")
    assert samples(root) == {
        "a/4.wav": ["a"],
        "b/3.wav": ["b"],
        "b/deep/5.wav": ["b"],
        "dog/2.wav": ["dog"],
        "puppy/1.wav": ["puppy"],
    }


def test_many_links_between_folders_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number:02d}/x.wav" for number in range(14)))
    for number in range(13):
        for link in ("a", "b"):
            (tmp_path / f"{number:02d}" / link).symlink_to(tmp_path / f"{number + 1:02d}")
    repeated: list[str] = []
    assert len(list(files_below(tmp_path, on_repeated=repeated.append))) == 14
    assert len(repeated) == 26


def test_files_are_ordered_by_name(tmp_path: Path) -> None:
    put(tmp_path, "b/1.txt", "b.txt", "b/c/2.txt", "b/c.txt", "a.txt", "c/3.txt")
    (tmp_path / "a").symlink_to(tmp_path / "c")
    (tmp_path / "0").symlink_to(put(tmp_path.parent / "elsewhere", "4.txt"))
    expected = ["0/4.txt", "a.txt", "b/1.txt", "b/c/2.txt", "b/c.txt", "b.txt", "c/3.txt"]
    assert ["".join(file) for file in files_below(tmp_path)] == expected


def test_files_of_one_name_are_paired_and_held_out_together(tmp_path: Path) -> None:
    names = ["1.flac", "1.gif", "1.jpg", "1.wav", "2.oga", "2.opus", "3.jpg", "3.tif"]
    put(tmp_path, *(f"dog/{name}" for name in names))
    entries = Table(tmp_path, RATE, cache=False).entries
    assert [(entry.audio, *entry.images) for entry in entries] == [
        ("dog/1.flac", "dog/1.gif"),
        ("dog/1.wav", "dog/1.jpg"),
        ("dog/2.oga",),
        ("dog/2.opus",),
        (None, "dog/3.jpg"),
        (None, "dog/3.tif"),
    ]
    for share in (0.1, 0.5, 0.9):
        held_out = Table(tmp_path, RATE, share=share, train=False, cache=False)
        assert all(count == 2 for count in Counter(Path(one.name).stem for one in held_out.entries).values())


def test_a_link_to_itself_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.wav")
    for link in (tmp_path / "dog/loop", tmp_path / "loop"):
        link.symlink_to(link)
    assert samples(tmp_path) == {"dog/1.wav": ["dog"]}


def test_a_link_to_nothing_is_a_missing_file(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.wav")
    (tmp_path / "dog/2.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files are missing: dog/2\.wav"):
        Table(tmp_path)


SPLIT = ("train/dog/1.wav", "train/sea_waves/2.wav", "Test/dog/1.wav", "Test/sea_waves/4.wav")


def test_folders_called_train_and_test_are_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, *SPLIT, "train/stray.wav")
    train, test = (Table(tmp_path, RATE, train=train, cache=False) for train in (True, False))
    assert train.class_names == test.class_names == ["dog", "sea waves"]
    assert samples(tmp_path) == {"train/dog/1.wav": ["dog"], "train/sea_waves/2.wav": ["sea waves"]}
    assert samples(tmp_path, train=False).keys() == {"Test/dog/1.wav", "Test/sea_waves/4.wav"}
    assert test.results_name == f"{tmp_path.stem} (4 samples, held out: Test)"
    assert (
        train.ignored_notice == f"{tmp_path}: Not read: 1 outside the class folders, such as train/stray.wav."
    )
    with caplog.at_level(logging.WARNING):
        by_share = Table(tmp_path, RATE, share=0.5, cache=False)
        by_share.prepare()
    assert [entry.name for entry in by_share.entries] == [entry.name for entry in train.entries]
    assert "share is not used; held out: Test." in caplog.text


@pytest.mark.parametrize(
    ("train", "test"), [("train_set", "Test_Set"), ("trn", "tst"), ("training-data", "holdout")]
)
def test_splits_can_have_other_names(train: str, test: str, tmp_path: Path) -> None:
    put(tmp_path, f"{train}/dog/1.wav", f"{test}/dog/2.wav")
    assert samples(tmp_path) == {f"{train}/dog/1.wav": ["dog"]}
    assert samples(tmp_path, train=False) == {f"{test}/dog/2.wav": ["dog"]}


def test_if_all_files_are_deeper_than_the_classes_a_run_names_the_inner_folders(tmp_path: Path) -> None:
    put(tmp_path, "fold1/dog/1.wav", "fold1/sea/2.wav", "fold2/dog/a/3.wav")
    data = Table(tmp_path, RATE, cache=False)
    assert data.class_names == ["fold1", "fold2"]
    assert data.ignored_notice == (
        f"{tmp_path}: Not read: names of folders inside the class folders: fold1/dog, fold1/sea, fold2/dog "
        "(if those are the classes, name the folder above them, or call the splits train and test)."
    )
    put(tmp_path, "fold2/4.wav")
    assert Table(tmp_path, RATE, cache=False).ignored_notice is None


def test_class_names_are_stripped_of_spaces_and_line_breaks(tmp_path: Path) -> None:
    put(tmp_path, "_background_noise_/1.wav", "sea\nwaves/2.wav")
    assert Table(tmp_path, RATE, cache=False).class_names == ["background noise", "sea waves"]


def test_all_splits_except_train_or_only_the_named_ones_are_held_out(tmp_path: Path) -> None:
    put(tmp_path, *SPLIT, "valid/dog/5.wav")
    assert {path.split("/")[0] for path in samples(tmp_path)} == {"train"}
    assert {path.split("/")[0] for path in samples(tmp_path, train=False)} == {"Test", "valid"}
    assert {path.split("/")[0] for path in samples(tmp_path, split="valid")} == {"train", "Test"}
    with pytest.raises(ValueError, match=r"split is test; .* has Test, train, valid\."):
        Table(tmp_path, split="test")


def test_a_single_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    put(tmp_path, "train/1.wav", "car/2.wav", "ship/a/3.wav")
    assert {label for [label] in samples(tmp_path).values()} == {"train", "car", "ship"}
    put(tmp_path / "one", "train/1.wav")
    assert samples(tmp_path / "one") == {"train/1.wav": ["train"]}
    put(tmp_path / "two", "train/dog/1.wav", "train/cat/2.wav")
    assert samples(tmp_path / "two", share=0.5) != {}
    assert Table(tmp_path / "two", RATE, cache=False).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ("train/dog/1.wav test/2.wav", "but not a folder for each class in test; sort the files there"),
        (
            "train/dog/1.wav test/dog/2.wav noise/3.wav",
            "with a folder for each class, and besides noise; move",
        ),
    ],
)
def test_mixed_layouts_are_errors(tmp_path: Path, paths: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"has the splits test and train, {said}"):
        Table(put(tmp_path, *paths.split()))


LATIN = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8_are_errors(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.wav", f"dog/{LATIN}.wav", f"{LATIN}/2.wav", "h\u00e9/3.wav")
    expected = r"has names that are not UTF-8: caf\\xe9/2\.wav, dog/caf\\xe9\.wav; rename them, for"
    with pytest.raises(ValueError, match=expected):
        Table(tmp_path)
    with pytest.raises(ValueError, match=r"The name a/caf\\xe9\.wav is not UTF-8; rename the file\."):
        Entries([Entry(f"a/{LATIN}.wav")])


def test_messages_show_names_that_are_not_utf8(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.wav", f"dog/x.{LATIN}")
    said = Table(tmp_path, cache=False).ignored_notice
    assert said == f"{tmp_path}: Not read: 1 .caf\\xe9."
    root = tmp_path / "made"
    MadeSounds(root, progress=False, cache=tmp_path, seconds=0.3, clips_per_class_and_fold=1)
    put(root, f"audio/{LATIN}.wav")
    args = {"root": root, "seconds": 0.3, "clips_per_class_and_fold": 1}
    findings = inspect_clips(MadeSounds, args).findings
    assert "audio/caf\\xe9.wav" in [one.where for one in findings]


def test_an_unreadable_folder_is_an_error_unless_a_callback_handles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.wav", "b/2.wav")
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        list(files_below(tmp_path))
    refused: list[str] = []
    assert list(files_below(tmp_path, on_error=lambda path, _: refused.append(path))) == [("b/", "2.wav")]
    assert refused == ["a/"]
