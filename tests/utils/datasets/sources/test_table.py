"""A user's own table: columns, splits, error messages."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from PIL import Image

from utils.datasets import Table
from utils.datasets.sample import DescribedSample, Sample
from utils.tasks.labels import Classes

RATE = 8000
ROWS: list[dict[str, Any]] = [
    {"file": f"sounds/{i}.wav", "label": ("dog", "sea")[i % 2], "fold": i % 3 + 1} for i in range(12)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write twelve sounds of 100 + i samples, and two images."""
    (tmp_path / "sounds").mkdir()
    for i in range(12):
        samples = np.random.default_rng(i).integers(-32768, 32768, 100 + i).astype(np.int16)
        soundfile.write(tmp_path / f"sounds/{i}.wav", samples, RATE)
    for i in range(2):
        Image.new("RGB", (5, 3), (10 * i, 20, 30)).save(tmp_path / f"{i}.png")
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a table with these rows, in the format given by its suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def own(folder: Path, text: str, **args: Any) -> Table:
    """Read a CSV table with this content."""
    (folder / "own.csv").write_text(text)
    return Table(folder / "own.csv", RATE, **args)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_tables_in_every_format_yield_the_same_samples(folder: Path, suffix: str) -> None:
    table = write(folder / f"own.{suffix}", ROWS)
    train, test = (Table(table, RATE, fold=2, train=train) for train in (True, False))
    assert (len(train), len(test)) == (8, 4)
    assert train.class_names == test.class_names == ["dog", "sea"]
    assert (test.folds, test.held_out) == ((1, 2, 3), (2,))
    sample = test[1]
    assert isinstance(sample, Sample)
    samples, _ = soundfile.read(folder / "sounds/4.wav", dtype="int16")
    assert np.array_equal(sample.audio[0], samples)
    assert (sample.image, sample.labels) == (None, ["dog"])
    assert test.record(1) == {"clip": "sounds/4.wav", "fold": 2}


def test_json_lines_may_be_called_json_and_a_list_of_them_may_not_be_called_jsonl(folder: Path) -> None:
    write(folder / "own.jsonl", ROWS).rename(folder / "own.json")
    assert len(Table(folder / "own.json", RATE, fold=2)) == 8
    write(folder / "own.json", ROWS).write_text(json.dumps(ROWS))
    (folder / "own.json").rename(folder / "own.jsonl")
    with pytest.raises(
        ValueError, match=r"line 1: JSON, but a list; .*the whole file, called \.json, is one li"
    ):
        Table(folder / "own.jsonl", RATE, fold=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{}", r"own\.json is not JSON \(Expecting"),
        ("[1, 2]", r"own\.json, line 1: JSON, but an int; the list has one JSON object for each row"),
        ("{", r"own\.json, line 1: not JSON \(.*; each line is one JSON object \(or the whole"),
        ("[" * 100_000, r"own\.json is not JSON \(maximum recursion"),
    ],
)
def test_json_that_is_not_a_table_is_an_error(content: str, message: str, folder: Path) -> None:
    (folder / "own.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Table(folder / "own.json", RATE)


@pytest.mark.parametrize(("column", "value"), [("fold", 2), ("split", "test")])
def test_rows_without_a_fold_or_split_are_trained_on_and_counted(
    folder: Path, column: str, value: object
) -> None:
    rows = [{"file": f"sounds/{i}.wav", "label": "dog", column: value if i < 2 else ""} for i in range(5)]
    rows[2][column] = 1 if column == "fold" else "train"
    table = write(folder / "own.csv", rows)
    train, test = (Table(table, RATE, train=train, **{column: value}) for train in (True, False))  # type: ignore[arg-type]
    assert (len(train), len(test)) == (3, 2)
    said = f"{table}: 2 of 5 rows have no {column}; they are used for training (first: line 5)."
    assert (train.ignored_notice, test.ignored_notice) == (said, None)
    found = Table.inspect_data(table=str(table), sample_rate=RATE, **{column: value}).findings
    assert said in [one.where for one in found]


@pytest.mark.parametrize("cache", [None, False])
def test_the_cache_does_not_change_samples(folder: Path, cache_folder: Path, cache: bool | None) -> None:
    table = write(folder / "own.csv", ROWS)
    data = Table(table, RATE, cache=cache)
    plain = [soundfile.read(folder / row["file"], dtype="int16")[0] for row in ROWS]
    assert all(np.array_equal(data[i].audio[0], plain[i]) for i in range(12))
    assert hasattr(data, "read_batch") == cache_folder.exists() == (cache is None)
    if cache is None:
        batch = data.read_batch([3, 1])
        assert batch.audio.lengths.tolist() == [103, 101]
        assert batch.labels == [["sea"], ["sea"]]


def test_segments_are_the_samples_between_their_seconds(folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"file": "sounds/0.wav", "start": 0.005, "end": end} for end in (0.01, "")]
    whole, _ = soundfile.read(folder / "sounds/0.wav", dtype="int16")
    for cache in (None, False):
        data = Table(write(folder / "own.csv", rows), RATE, cache=cache)
        assert np.array_equal(data[0].audio[0], whole[40:80])
        assert np.array_equal(data[1].audio[0], whole[40:])
    assert data.record(0) == {"clip": "sounds/0.wav#t=0.005,0.01"}


def test_missing_fields_of_a_row_are_none(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio": "sounds/0.wav", "image": "0.png", "caption": "a dog, barking", "labels": ["dog", "sea"]},
        {"image": "1.png"},
        {"caption": "silence"},
    ]
    data = Table(write(folder / "own.jsonl", rows), RATE)
    both, picture, text = data
    assert isinstance(both, DescribedSample)
    assert both.text == "a dog, barking"
    assert both.labels == ["dog", "sea"]
    assert torch.equal(both.image[:, 0, 0], torch.tensor([0, 20, 30], dtype=torch.uint8))
    assert both.image.shape == (3, 3, 5)
    assert (picture.audio, picture.labels) == (None, [])
    assert (text.audio, text.image, text) == (None, None, (None, None, [], "silence"))


@pytest.mark.parametrize(("share", "held_out"), [(0.01, 1), (0.99, 2)])
def test_at_least_one_group_is_held_out_and_one_trained_on(folder: Path, share: float, held_out: int) -> None:
    table = write(folder / "own.csv", ROWS[:3])
    assert len(Table(table, RATE, share=share, train=False)) == held_out
    assert len(Table(table, RATE, share=share)) == 3 - held_out


def test_labels_are_split_at_the_separator_or_given_as_a_json_list(folder: Path) -> None:
    rows = [{"file": "sounds/0.wav", "tags": "a; b"}, {"file": "sounds/1.wav", "tags": '["c", "a"]'}]
    data = Table(write(folder / "own.csv", rows), RATE, separator=";")
    assert [sample.labels for sample in data] == [["a", "b"], ["c", "a"]]
    assert Table(folder / "own.csv", RATE)[0].labels == ["a; b"]


def test_a_share_is_held_out_by_group_and_does_not_change_when_rows_are_added(folder: Path) -> None:
    rows = [{**row, "group": f"recording {i // 2}"} for i, row in enumerate(ROWS)]
    table = write(folder / "own.csv", rows)
    held = {Table(table, RATE, share=0.4, train=False).record(i)["clip"] for i in range(2)}
    test = [entry.audio for entry in Table(table, RATE, share=0.4, train=False).entries]
    train = [entry.audio for entry in Table(table, RATE, share=0.4).entries]
    assert held <= set(test)
    assert sorted(map(str, test + train)) == sorted(row["file"] for row in rows)
    groups = [{row["group"] for row in rows if row["file"] in part} for part in (test, train)]
    assert not groups[0] & groups[1]
    fewer = Table(write(folder / "own.csv", rows[:10]), RATE, share=0.4, train=False)
    assert {entry.audio for entry in fewer.entries} == set(test) & {row["file"] for row in rows[:10]}
    assert fewer.folds == ()  # the table's folds are ignored; otherwise, the trainer would ask for one
    assert fewer.results_name == "own (10 samples, held out: 0.4 of the groups by hash)"


def test_missing_files_are_named_or_skipped(folder: Path) -> None:
    (folder / "sounds/3.wav").unlink()
    table = write(folder / "own.csv", ROWS)
    with pytest.raises(
        FileNotFoundError, match=r"1 of 12 files are missing: sounds/3\.wav \(own\.csv, line 5"
    ):
        Table(table, RATE)
    assert len(Table(table, RATE, missing="skip")) == 11


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        ("sound,fold\nx,1\n", {}, "has no column of sounds, images or texts"),
        (
            "file,fold\nsounds/0.wav,one\n",
            {},
            'own.csv, line 2: fold is "one"; a whole number of at most 9 digits (folds with names are splits',
        ),
        ("file,fold\n,1\n", {}, "line 2: file is"),
        ("file,label\nsounds/0.wav,[x\n", {}, 'line 2: label is "[x"; a JSON list'),
        (f"file,label\nsounds/0.wav,{'[' * 9000}\n", {}, 'line 2: label is "[[[['),
        ("file,label\nsounds/0.wav,a,b\n", {}, "line 2: more values than columns"),
        ("file,start,end\nsounds/0.wav,3,2\n", {}, 'line 2: end is "2"; a time in seconds later'),
        ("file,fold\nsounds/0.wav,1\n", {"fold": 3}, "own.csv has 1."),
        (
            "file,label\nsounds/0.wav,dog\n",
            {"fold": 3},
            'own.csv has no folds; name their column by "fold_column", or choose a share: '
            "--Dataset.args.fold null --Dataset.args.share 0.2",
        ),
        ("file\nsounds/0.wav\n", {"labels": "kind"}, "labels is 'kind';"),
        ("file,fold\nsounds/0.wav,1\n", {"fold": 1}, "all of its 1 rows are held out"),
        ("file\nsounds/0.wav\n", {"share": 2}, "share is 2;"),
        (
            "file,label\nsounds/0.wav,dog\nsounds/1.M4A,dog\n",
            {},
            'own.csv, line 3: file is "sounds/1.M4A"; a supported kind of sound, such as .flac '
            "(convert it, for example with `ffmpeg -i x.m4a x.flac`), is expected.",
        ),
        (
            "image,label\n0.heic,dog\n",
            {},
            'own.csv, line 2: image is "0.heic"; a supported kind of image, such as .jpg '
            "(convert it, for example with `magick x.heic x.jpg`), is expected.",
        ),
        (
            "file,label,label,note,note\nsounds/0.wav,dog,1,a,b\n",
            {},
            "several columns called label. Rename all",
        ),
    ],
)
def test_errors_name_line_column_and_value(folder: Path, text: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        own(folder, text, **args)


def test_half_a_surrogate_pair_in_json_is_an_error(folder: Path) -> None:
    (folder / "own.jsonl").write_text('{"file": "sounds/0.wav", "label": "a\\ud800"}\n')
    with pytest.raises(ValueError, match=r"own\.jsonl, line 1: label is .*without control characters"):
        Table(folder / "own.jsonl", RATE)


def test_a_segment_far_beyond_the_end_has_no_samples(folder: Path) -> None:
    data = own(folder, "file,start,end\nsounds/0.wav,1e308,\nsounds/0.wav,0,1e308\n", cache=False)
    with pytest.raises(ValueError, match=r"0\.wav: holds no audio samples from 1e\+308 s on"):
        data[0]
    assert data[1].audio.shape == (1, 100)


@pytest.mark.parametrize(
    ("columns", "args", "unused"),
    [
        ("file,label", {}, ""),
        ("file,lable,note", {}, 'lable (did you mean "label"?), note'),
        ("file,label,tags", {}, "tags"),
        ("file,Audio_flie,label", {}, "Audio_flie"),
        ("image,Audio flie,label", {}, 'Audio flie (did you mean "audio_file"?)'),
        ("file,label,spilt,strat", {}, 'spilt (did you mean "split"?), strat (did you mean "start"?)'),
        ("file,label,strat", {"start": False}, "strat"),
    ],
)
def test_unused_columns_are_named_with_suggestions(
    folder: Path, columns: str, args: dict[str, Any], unused: str
) -> None:
    known = {"image": "0.png", "file": "sounds/0.wav"}
    cells = ",".join(known.get(name, "1") for name in columns.split(","))
    assert own(folder, f"{columns}\n{cells}\n", **args).unused_columns == unused
    summary = Table.inspect_data(table=str(folder / "own.csv"), sample_rate=RATE, **args).summary
    assert summary.endswith(f"; unused columns: {unused}" if unused else "checked")


def test_only_some_of_many_unused_columns_are_named(folder: Path) -> None:
    names = [f"column_{number}" for number in range(30)]
    table = own(folder, ",".join(["file", *names]) + "\nsounds/0.wav" + "," * 30 + "\n")
    assert table.unused_columns.endswith("column_19, and 10 more")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "file,lable\nsounds/0.wav,dog\n",
            r'Unused columns: lable \(did you mean "label"\?\)\. If one holds',
        ),
        ("file,caption\nsounds/0.wav,a dog\n", r"To train on captions, use utils\.tasks\.Contrastive"),
    ],
)
def test_if_a_task_finds_no_labels_the_error_says_where_they_may_be(
    folder: Path, text: str, said: str
) -> None:
    data = own(folder, text)
    with pytest.raises(ValueError, match=f"no class_names.* {said}"):
        Classes.of(data, data)


def test_the_error_for_a_missing_table_names_those_in_the_same_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "notes.txt", "note.tsv"):
        (folder / name).touch()
    beside = rf"nope\.tsv: no such table or folder\. {folder} has note\.tsv, a\.csv, sounds\."
    with pytest.raises(FileNotFoundError, match=beside):
        Table(folder / "nope.tsv", RATE)
    with pytest.raises(FileNotFoundError, match=r"Name another table with --Dataset\.args\.table FILE\."):
        Table(folder / "nope.csv", RATE)
    with pytest.raises(
        FileNotFoundError, match=r"no such table or folder\. .*sounds has no table and no folder\."
    ):
        Table(folder / "sounds/nope.tsv", RATE)
    with pytest.raises(FileNotFoundError, match=r"no such table or folder\. There is no folder .*/none\."):
        Table(folder / "none/nope.tsv", RATE)
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match=f"^{beside}"):
        Table("nope.tsv", RATE)
