"""`--check` of tables with unreadable lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ignite_trainer.api.findings import Finding
from ignite_trainer.support.formatting import escaped
from utils.datasets import ESC50, AudioSet, Table
from utils.datasets.sample import Clip
from utils.datasets.sources.cells import Place, RowError

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        samples = np.random.default_rng(i).integers(-9999, 9999, RATE).astype(np.int16)
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE)
    return tmp_path


def check(table: Path) -> tuple[Finding, ...]:
    return Table.inspect_data(table=str(table), sample_rate=RATE).findings


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("own.csv", "file,label\n0.wav,a,b\n1.wav,b\n", "line 2: more values than columns; put text that"),
        ("own.jsonl", '{"file": "0.wav"}\n{"file": "1.wa', "line 2: not JSON (Unterminated string"),
        ("own.jsonl", '{"file": "0.wav"}\n["1.wav"]\n', "line 2: JSON, but a list; each line is one JSON"),
        ("own.csv", 'file,caption\n0.wav,a\n1.wav,"b\n2.wav,c\n', "line 4: 2 lines are one row"),
    ],
)
def test_a_malformed_line_is_found_and_skipped(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    [finding] = check(folder / name)
    assert finding.what == "A line of the table cannot be read."
    assert said in finding.where


def test_if_no_line_can_be_read_each_reason_is_reported(folder: Path) -> None:
    (folder / "own.csv").write_text("file,label,fold\n0.wav,a,one\n1.wav,a,two\n2.wav,a\tb,1\n")
    with pytest.raises(ValueError, match="3 lines of the table cannot be read") as caught:
        check(folder / "own.csv")
    first, _, second = str(caught.value).partition(" is expected. ")
    assert 'line 2: fold is "one"; a whole number' in first
    assert 'line 4: label is "a\ufffdb"; text on one line' in second
    assert "line 3" not in str(caught.value)  # for the same reason as line 2
    assert "lists no samples" not in str(caught.value)


def test_a_line_that_a_reader_cannot_skip_ends_the_check(esc50: Path) -> None:
    class Stubborn(ESC50):
        def read_table(self) -> list[Clip]:
            raise RowError(Place(self.root / self.table, 3), "wrong", "nothing helps.")

    with pytest.raises(ValueError, match=r"line 3: wrong; nothing helps\. 1 line and more of the table"):
        Stubborn.inspect_data(root=str(esc50))


def audioset(root: Path, classes: str) -> dict[str, Any]:
    for n, name in enumerate(("balanced_train", "eval")):
        line = f'{n:011d}, 0.000, 1.000, "/m/1"'
        (root / f"{name}_segments.csv").write_text(f"# a\n# b\n# c\n{line}\n")
        soundfile.write(root / f"{n:011d}.wav", np.full(RATE, 9 + n, np.int16), RATE)
    (root / "class_labels_indices.csv").write_text(f"index,mid,display_name\n0,/m/1,One\n{classes}")
    return {"root": str(root), "sample_rate": RATE}


def test_a_gap_in_the_table_of_classes_is_an_error(tmp_path: Path) -> None:
    args = audioset(tmp_path, "74,/m/2,Dog\n")
    with pytest.raises(ValueError, match=r"line 3: index is 74; 1 is expected\. The table lists all classes"):
        AudioSet.inspect_data(**args)


def test_a_bad_line_is_left_out_of_its_own_table_only(tmp_path: Path) -> None:
    args = audioset(tmp_path, "")
    table = tmp_path / "balanced_train_segments.csv"
    table.write_text(table.read_text().replace("/m/1", "/m/none") + '00000000000, 0.000, 1.000, "/m/1"\n')
    inspection = AudioSet.inspect_data(**args)
    assert [one.what for one in inspection.findings if one.severity == "error"] == [
        "A line of the table cannot be read."
    ]
    assert inspection.summary.startswith("AudioSet: 2 samples")  # line 4 of the other table, too


def test_names_that_look_alike_or_like_missing_values_are_warnings(folder: Path) -> None:
    names = ["dog", "do\u200bg", "none", "na\u200cme"]
    rows = "".join(f"{i}.wav,{name}\n" for i, name in enumerate(names))
    (folder / "own.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
    assert [(one.severity, one.what, one.where) for one in check(folder / "own.csv")] == [
        ("warning", "A class name looks like a missing value.", "none"),
        ("warning", "Several class names look alike.", r"'dog', 'do\u200bg'"),
    ]


def test_a_report_shows_joiners_but_escapes_control_characters() -> None:
    assert escaped("\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680") == (
        "\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680"
    )
    assert escaped("a\x1b[2J\nb\u202ec\x85\u2028") == r"a\x1b[2J\nb\u202ec\x85\u2028"
