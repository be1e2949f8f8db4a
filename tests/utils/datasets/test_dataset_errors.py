"""Errors of arguments, tables and files come before any decoding, and say what to do."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from utils.datasets import ESC50


def check_error(
    root: Path | str | None, message: str, kind: type[Exception] = ValueError, **args: Any
) -> None:
    """Check that building the data set fails with this message, before anything is decoded."""
    with pytest.raises(kind, match=re.escape(message)):
        ESC50(root, **args)  # type: ignore[arg-type]
    assert not Path(os.environ["AUDIOCLIP_CACHE"]).exists()


def edit(root: Path, old: str, new: str) -> None:
    table = root / "meta/esc50.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


def test_a_fold_that_does_not_exist_is_an_error(esc50: Path) -> None:
    check_error(esc50, "fold is 11; ESC-50 has folds 1 to 5.", fold=11)
    check_error(esc50, "fold is [1, 0]; ESC-50 has folds 1 to 5.", fold=[1, 0])
    edit(esc50, "wav,3,", "wav,9,")
    for _ in range(2):
        edit(esc50, "wav,3,", "wav,2,")
    check_error(esc50, "fold is 3; ESC-50 has folds 1, 2, 4, 5 and 9.", fold=3)


@pytest.mark.parametrize("fold", ["1", 1.0, True, [], [1, "2"], {"a": 1}, "random", 0.2])
def test_a_fold_must_be_a_number(esc50: Path, fold: object) -> None:
    check_error(esc50, f"fold is {fold!r}; a fold's number, a list of them, or null is expected.", fold=fold)
    check_error(esc50, "which share a fold, into both training and test data", fold=fold)


def test_holding_out_every_fold_leaves_nothing_to_train_on(esc50: Path) -> None:
    folds = [1, 2, 3, 4, 5]
    check_error(esc50, f"fold is {folds}; that holds out every clip and leaves none to train on.", fold=folds)
    assert len(ESC50(esc50, fold=folds, train=False)) == 15


@pytest.mark.parametrize("sample_rate", [0, -1, 44100.0, "44100", True, 10**12])
def test_a_wrong_sample_rate_is_an_error(esc50: Path, sample_rate: object) -> None:
    message = f"sample_rate is {sample_rate!r}; an integer from 1 to 1000000, in Hz, is expected."
    check_error(esc50, message, sample_rate=sample_rate)


@pytest.mark.parametrize("name", ["train", "mono", "esc10"])
def test_text_is_not_accepted_as_a_boolean(esc50: Path, name: str) -> None:
    arguments: dict[str, Any] = {name: "false"}
    check_error(esc50, f"{name} is 'false'; true or false is expected.", **arguments)


def test_the_error_for_a_missing_root_says_how_to_get_it(tmp_path: Path) -> None:
    expected = (
        "ESC-50 is expected there: meta/esc50.csv and the audio files. If it is elsewhere, name that folder "
        "with --Dataset.args.root FOLDER; --Dataset.args.download true fetches it, as does `python -m "
        "utils.fetch ESC-50`."
    )
    check_error("/no/such", f"root is /no/such, which is not a folder; {expected}", FileNotFoundError)
    check_error(tmp_path, f"root is {tmp_path}, which has no meta/esc50.csv; {expected}", FileNotFoundError)
    check_error(None, "root is None; the folder of ESC-50 is expected.")


def test_the_error_for_a_root_one_folder_too_high_names_the_correct_one(esc50: Path) -> None:
    parent = esc50.parent
    check_error(parent, f"root is {parent}, but ESC-50 is a folder deeper: use {esc50}.", FileNotFoundError)


def test_a_missing_column_is_named_with_the_existing_ones(esc50: Path) -> None:
    edit(esc50, "category,esc10", "kind,short")
    there = "it has filename, fold, target, kind, short, src_file, take."
    table = esc50 / "meta/esc50.csv"
    check_error(esc50, f"{table} has no column category; {there}")
    check_error(esc50, f"{table} has no column category and no column esc10; {there}", esc10=True)
    table.write_text("\n")
    check_error(esc50, f"{table} has no column filename and no column fold")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a.wav,one,0,dog,True", 'line 2: fold is "one"; a whole number of at most 9 digits is expected.'),
        ("a.wav,-1,0,dog,True", 'line 2: fold is "-1"; a whole number of at most 9 digits is expected.'),
        (f"a.wav,{'9' * 50},0,dog,True", "a whole number of at most 9 digits is expected"),
        ("a.wav,1,,dog,True", 'line 2: target is ""; some text is expected.'),
        ("a.wav,1", 'line 2: esc10 is ""; some text is expected.'),
        ("a.wav,1,0,dog,yes", 'line 2: esc10 is "yes"; True or False is expected.'),
        ("a.wav,1,0,  ,True", 'line 2: category is "  "; some text is expected.'),
        ("a.wav,1,0,\u200b,True", "some text is expected"),
        ("a.wav,1,0,NaN,True", 'category is "NaN"; some text is expected'),
        ('a.wav,1,0,"do\ng",True', 'category is "do\ufffdg"; text on one line'),
        ("a.wav,1,0,do\u2028g,True", 'category is "do\ufffdg"; text on one line'),
        (f"a.wav,1,0,{'d' * 6000},True", "text of at most 5,000 characters is expected"),
        (
            "../x.wav,1,0,dog,True",
            'line 2: filename is "../x.wav"; a file name without a folder is expected.',
        ),
        ("a\x1b]0;b\x07.wav,1,0,dog,True", 'filename is "a\ufffd]0;b\ufffd.wav"; text on one line, without'),
        (
            "a\0.wav,1,0,dog,True",
            "text on one line, without control" if sys.version_info >= (3, 11) else "line contains NUL",
        ),
        ("b" * 300 + ".wav,1,0,dog,True", "a file name of at most 255 bytes is expected"),
        ("a" * 20_000 + ",1,0,dog,True", "line 2 has more than 10,000 characters"),
    ],
)
def test_refused_values_are_named_with_their_line(esc50: Path, row: str, complaint: str) -> None:
    content = f"filename,fold,target,category,esc10\n{row}\n"
    (esc50 / "meta/esc50.csv").write_text(content, encoding="utf-8", newline="")
    check_error(esc50, complaint, esc10=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\xff\xfe\x00",
            "is not in UTF-8 (byte 0xff). Save it as UTF-8, for example with `iconv -f utf-16 -t utf-8 esc50",
        ),
        (
            b"a\xe9",
            "is not in UTF-8 (byte 0xe9). Save it as UTF-8, for example with `iconv -f latin1 -t utf-8",
        ),
        (b'filename,fold,target,category\n"' + b"a\n" * 100000, "is not a CSV table: "),
        (b"<!DOCTYPE html><html>", "is an HTML page: its download failed."),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the file that it stands",
        ),
        (b"", "is an empty file: its download or copy failed."),
    ],
)
def test_a_file_that_is_not_a_table_is_an_error(esc50: Path, content: bytes, said: str) -> None:
    (esc50 / "meta/esc50.csv").write_bytes(content)
    check_error(esc50, f"{esc50}/meta/esc50.csv {said}")


def test_a_byte_order_mark_is_ignored(esc50: Path) -> None:
    table = esc50 / "meta/esc50.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(ESC50(esc50)) == 15


def test_a_table_without_clips_is_an_error(esc50: Path) -> None:
    (esc50 / "meta/esc50.csv").write_text("filename,fold,target,category,esc10\n")
    check_error(esc50, f"root is {esc50}, but its meta/esc50.csv lists no clips.")
    (esc50 / "meta/esc50.csv").write_text("filename,fold,target,category,esc10\na.wav,1,0,dog,False\n")
    check_error(esc50, "esc10 is true; ", esc10=True)


def test_contradicting_targets_and_labels_are_an_error(esc50: Path) -> None:
    edit(esc50, "2,4,frog", "2,4,toad")
    clip, said = "audio/2-1003-A-4.wav", "Target and label contradict other clips. Correct the line."
    check_error(esc50, f"esc50.csv: {clip} (target 4, toad; elsewhere target 4 is frog): {said}")
    edit(esc50, "2,4,toad", "2,5,frog")
    check_error(esc50, f"esc50.csv: {clip} (target 5, frog; elsewhere frog is target 4): {said}")
    edit(esc50, "2,5,frog", f"2,4,{'o' * 3000}")
    check_error(esc50, f"esc50.csv: {clip} (target 4, {'o' * 80}; elsewhere target 4 is frog): {said}")


def test_a_clip_listed_twice_is_an_error(esc50: Path) -> None:
    edit(esc50, "2-1003-A-4.wav", "1-1000-A-4.wav")
    check_error(
        esc50, "esc50.csv: audio/1-1000-A-4.wav (2 lines): The table lists a clip several times. Keep one"
    )


def test_missing_files_are_counted_and_the_first_named(esc50: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ESC50, "decode", lambda *_: pytest.fail("a clip was decoded"))
    for path in sorted((esc50 / "audio").iterdir())[:7]:
        path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        ESC50(esc50, fold=5)
    message = str(caught.value)
    assert message.startswith(f"root is {esc50}, but 7 of its 15 audio files are missing: audio/1-1000-A-4")
    assert message.count(".wav") == 5
    assert message.endswith("and 2 more. Is the data set complete?")


def test_corrupt_clips_are_all_named_in_one_error(esc50: Path, cache_folder: Path) -> None:
    names = ["1-1000-A-4.wav", "3-1007-A-0.wav", "5-1014-A-11.wav"]
    (esc50 / "audio" / names[0]).write_text("not audio")
    (esc50 / "audio" / names[1]).write_bytes(b"")
    soundfile.write(esc50 / "audio" / names[2], np.array([0.0, np.nan]), 44100, subtype="FLOAT")
    with pytest.raises(ValueError, match="clips cannot be decoded") as caught:
        ESC50(esc50).prepare()
    message = str(caught.value)
    assert message.startswith(f"root is {esc50}, but 3 of its 15 clips cannot be decoded:")
    assert all(str(esc50 / "audio" / name) in message for name in names)
    assert "non-finite values" in message
    assert message.endswith('in a run, Faults.unreadable "skip" continues without them.')
    assert not [path for path in cache_folder.iterdir() if path.suffix != ".lock"]


def test_ten_of_many_corrupt_clips_are_named(esc50: Path) -> None:
    for path in (esc50 / "audio").iterdir():
        path.write_text("not audio")
    with pytest.raises(ValueError, match=r"15 of its 15 clips") as caught:
        ESC50(esc50).prepare()
    assert str(caught.value).count(".wav") == 10
    assert "and 5 more" in str(caught.value)


def test_too_large_a_table_is_not_read(esc50: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (esc50 / "meta/esc50.csv").open("ab") as file:
        file.truncate(10**12)
    check_error(esc50, "meta/esc50.csv has 1,000,000,000,000 bytes; a table has at most 4,000,000,000.")
    (esc50 / "meta/esc50.csv").write_text("filename,fold,target,category\n" + "a.wav,1,0,dog\n" * 11)
    monkeypatch.setattr("utils.datasets.sources.tables.MOST_ROWS", 10)
    check_error(esc50, "meta/esc50.csv has more than 10 rows.")
