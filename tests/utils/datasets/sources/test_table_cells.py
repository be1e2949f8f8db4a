"""Cells of a user's table: empty cells, numbers, lists, refused text."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.utils.datasets.sources.test_table import write as write_rows
from utils.datasets import ESC50, Table
from utils.datasets.checks.names import name_findings

RATE = 8000
WILL = "\u0645\u06cc\u200c\u0634\u0648\u062f"  # Persian; its spelling requires the non-joiner
ASTRONAUT = "\U0001f469\u200d\U0001f680"


def write(path: Path, values: Sequence[Any], *, column: str = "label") -> Path:
    """Write a table with these values in one column."""
    return write_rows(path, [{"file": f"{i}.wav", column: value} for i, value in enumerate(values)])


def labels(table: Path, **args: Any) -> list[list[str]]:
    return [list(entry.labels) for entry in Table(table, RATE, **args).entries]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_nan_is_an_empty_label(folder: Path, suffix: str) -> None:
    values = ["dog", None, "nan", "NaN"]
    assert labels(write(folder / f"own.{suffix}", values)) == [["dog"], [], [], []]
    assert Table(folder / f"own.{suffix}", RATE).class_names == ["dog"]


MISSING = "#N/A N/A n/a NULL null \\N -nan 1.#QNAN -1.#IND <NA> \u200b \u202e\u200d".split(" ")  # noqa: SIM905


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((["dog", word], [["dog"], []]) for word in MISSING),
        (["Nan", "nan bread", "naan"], [["Nan"], ["nan bread"], ["naan"]]),
        (["1.0", "1.5", "2.0"], [["1.0"], ["1.5"], ["2.0"]]),
        (["1.0", "dog"], [["1.0"], ["dog"]]),
    ],
)
def test_labels_are_empty_or_stay_as_written(
    folder: Path, values: list[str], expected: list[list[str]]
) -> None:
    assert labels(write(folder / "own.csv", values)) == expected


def test_empty_values_of_lists_and_numbers_are_dropped(folder: Path) -> None:
    values = [["dog", None, "nan"], [1, 2], 0.5, float("nan")]
    assert labels(write(folder / "own.jsonl", values)) == [["dog"], ["1", "2"], ["0.5"], []]


def test_a_run_warns_of_classes_that_look_like_missing_values(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table(write(folder / "own.csv", ["dog", "None", "NA"]), RATE, cache=False)
    assert table.class_names == ["NA", "None", "dog"]
    with caplog.at_level(logging.WARNING):
        table.prepare()
        table.prepare()
    assert caplog.messages == [
        "Table: A class name looks like a missing value (2 times): NA; None. If it means a missing value, "
        "leave the cells empty; if it is a class, ignore this warning."
    ]


@pytest.mark.parametrize(
    ("names", "what", "where"),
    [
        (["dog", "Dog", "sea"], "Several class names look alike.", "'Dog', 'dog'"),
        (
            ["sea", "sea; rain"],
            "A class name contains another class name and a separator, as if a row had several labels.",
            "sea; rain",
        ),
    ],
)
def test_suspicious_class_names_are_found(names: list[str], what: str, where: str) -> None:
    assert [(one.what, one.where) for one in name_findings(names)] == [(what, where)]


def test_a_comma_in_a_class_name_is_not_suspicious() -> None:
    assert list(name_findings(["fan, electric", "dog, small", "sea"])) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_integers_in_a_column_with_a_missing_value_stay_integers(folder: Path, suffix: str) -> None:
    table = write(folder / f"own.{suffix}", [1.0, 2.0, float("nan"), 10.0])
    assert labels(table) == [["1"], ["2"], [], ["10"]]
    table = write(folder / f"own.{suffix}", [1.0, 2.0, float("nan"), 1.0], column="fold")
    assert [entry.fold for entry in Table(table, RATE, fold=1).entries] == [2, None]
    table = write(folder / f"own.{suffix}", [1.0, 2.0, float("nan"), 1.0], column="split")
    assert len(Table(table, RATE, split="1", train=False)) == 2


@pytest.mark.parametrize("word", ["nan", "NA", "None", "null", "N/A", "<NA>"])
def test_words_for_a_missing_number_are_empty_cells(folder: Path, word: str) -> None:
    table = Table(write(folder / "own.csv", ["1", word], column="fold"), RATE)
    assert [entry.fold for entry in table.entries] == [1, None]


@pytest.mark.parametrize(
    "text", [WILL, ASTRONAUT, "soft\u00adhyphen", "\u202bok\u202c", "a\u00a0b", "\ufeffx"]
)
def test_format_characters_are_kept(folder: Path, text: str) -> None:
    assert labels(write(folder / "own.csv", [text])) == [[text]]
    assert labels(write(folder / "own.jsonl", [[text, "b"]])) == [[text, "b"]]
    table = write(folder / "own.csv", [text], column="caption")
    assert Table(table, RATE).entries[0].captions == (text,)


def test_a_file_may_be_named_with_a_joiner(folder: Path) -> None:
    (folder / "0.wav").rename(folder / "do\u200dg.wav")
    (folder / "own.csv").write_text("file,label\ndo\u200dg.wav,dog\n", encoding="utf-8")
    assert Table(folder / "own.csv", RATE)[0].audio.shape == (1, RATE)


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\x07b", "a\x85b", "a\u2028b", "a\nb", "a\tb"])
def test_control_characters_are_refused(folder: Path, text: str) -> None:
    table = write(folder / "own.jsonl", [text])
    with pytest.raises(ValueError, match=r"label is .*without control characters, is expected") as caught:
        Table(table, RATE)
    assert not set(str(caught.value)) & {"\x1b", "\x07", "\x85", "\u2028", "\n", "\t"}


def test_joiners_stay_in_messages(folder: Path) -> None:
    table = write(folder / "own.jsonl", [f"{WILL}\x1b"])
    with pytest.raises(ValueError, match=f'label is "{WILL}\ufffd"'):
        Table(table, RATE)


def test_lines_of_a_caption_are_joined(folder: Path) -> None:
    (folder / "own.csv").write_text('file,caption\n0.wav,"a dog\r\n  barks\n"\n1.wav,a  sea\n', newline="")
    assert [entry.captions for entry in Table(folder / "own.csv", RATE).entries] == [
        ("a dog barks",),
        ("a  sea",),
    ]


def test_a_quote_that_is_not_closed_does_not_swallow_rows(folder: Path) -> None:
    (folder / "own.csv").write_text('file,caption\n0.wav,"a dog\n1.wav,the sea\n2.wav,"rain"\n')
    with pytest.raises(ValueError, match=r"own\.csv, line 4: 3 lines are one row .*; close the quote"):
        Table(folder / "own.csv", RATE)
    (folder / "own.csv").write_text('file,caption\n0.wav,"a dog\n1.wav,the sea\n')
    with pytest.raises(ValueError, match=r"own\.csv, line 3: 2 lines are one row .*; close the quote"):
        Table(folder / "own.csv", RATE)


def test_lists_are_read_as_python_writes_them(folder: Path) -> None:
    (folder / "own.csv").write_text('file,labels\n0.wav,"[\'dog\', \'the ""x""\']"\n1.wav,[]\n')
    assert labels(folder / "own.csv") == [["dog", 'the "x"'], []]
    (folder / "own.tsv").write_text("file\tlabels\n0.wav\t('dog', 'sea')\n1.wav\t['b', 'a']\n2.wav\t(x)\n")
    assert labels(folder / "own.tsv") == [["dog", "sea"], ["b", "a"], ["(x)"]]


def test_values_may_be_separated_by_bars(folder: Path) -> None:
    (folder / "own.csv").write_text("file|label\n0.wav|sea, rough\n")
    assert labels(folder / "own.csv") == [["sea, rough"]]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "['a' 'b']",
            "['a', 'b'",
            "[dog, rain]",
            "[dog",
            "[nan]",
            "['a', nan]",
            "['a']+['b']",
            "{'a', 'b'}",
        ),
        "('a','b')",
    ],
)
def test_the_error_for_a_malformed_list_shows_a_valid_one(folder: Path, text: str) -> None:
    (folder / "own.tsv").write_text(f"file\tlabels\n0.wav\t{text}\n")
    with pytest.raises(ValueError, match=re.escape('a JSON list of texts such as ["dog", "rain"]')):
        Table(folder / "own.tsv", RATE)


@pytest.mark.parametrize("text", ["[laughter]", "[noise] dog", "[1].jpg", "[a, b].jpg"])
def test_text_in_brackets_is_not_a_list(folder: Path, text: str) -> None:
    assert labels(write(folder / "own.jsonl", [text, [text, "b"]])) == [[text], [text, "b"]]
    (folder / "own.tsv").write_text(f"file\tlabels\n0.wav\t{text}\n1.wav\t[1]\n2.wav\t[1, 2]\n")
    assert labels(folder / "own.tsv") == [[text], ["1"], ["1", "2"]]


def test_images_may_be_named_in_brackets(folder: Path) -> None:
    for name in ("[1].jpg", "[2].jpg"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    (folder / "own.csv").write_text('image,label\n[1].jpg,a\n"[""[1].jpg"", ""[2].jpg""]",a\n')
    entries = Table(folder / "own.csv", RATE).entries
    assert [entry.images for entry in entries] == [("[1].jpg",), ("[1].jpg", "[2].jpg")]


def test_a_table_with_the_contents_of_files_is_an_error(folder: Path) -> None:
    table = write(folder / "own.parquet", ["dog"])

    def read(content: bytes | None) -> Table:
        rows = [{"audio": {"bytes": content, "path": "0.wav"}, "label": "dog"}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        return Table(table, RATE)

    with pytest.raises(ValueError, match=r"line 1: audio is .*write each content to a file, and its path"):
        read((folder / "0.wav").read_bytes())
    assert read(None).record(0) == {"clip": "0.wav"}


def test_folds_with_names_can_be_held_out_as_splits(folder: Path) -> None:
    table = write(folder / "own.csv", ["fold1", "fold2"], column="fold")
    with pytest.raises(ValueError, match='fold is "fold1"; a whole number') as caught:
        Table(table, RATE)
    assert '"fold_column": false, "split_column": "fold"' in str(caught.value)
    test = Table(table, RATE, fold_column=False, split_column="fold", split="fold2", train=False)
    assert test.record(0) == {"clip": "1.wav"}


def test_integers_written_as_floats_are_read_in_a_published_layout(esc50: Path) -> None:
    table = esc50 / "meta/esc50.csv"
    before = ESC50(esc50, fold=1)
    lines = [line.split(",") for line in table.read_text().splitlines()]
    floats = [lines[0], *([one[0], f"{one[1]}.0", f"{one[2]}.0", *one[3:]] for one in lines[1:])]
    table.write_text("\n".join(map(",".join, floats)) + "\n")
    assert ESC50(esc50, fold=1).clips == before.clips


def test_format_characters_are_accepted_in_a_published_layout(esc50: Path) -> None:
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace("frog", WILL), encoding="utf-8")
    assert WILL in ESC50(esc50).class_names
