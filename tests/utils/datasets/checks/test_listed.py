"""`--check` of data sets that list files: a user's table and AudioSet, also with unreadable lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from ignite_trainer.api.findings import Inspection
from ignite_trainer.support.formatting import escaped
from utils.datasets import ESC50, AudioSet, Table
from utils.datasets.sample import Clip
from utils.datasets.sources.cells import Place, RowError

RATE = 8000
LEAKS = "so it would be in both training and test data."


@pytest.fixture
def own(folder: Path) -> Path:
    """Write a table of eight sounds and two images, in two folds and two splits."""
    lines = ["audio\timages\tlabel\tfold\tsplit"]
    for i in range(8):
        image = f"{i}.png" if i < 2 else ""
        lines.append(f"{i}.wav\t{image}\t{'ab'[i % 2]}\t{i // 4 + 1}\t{('train', 'test')[i % 2]}")
    for i in range(2):
        Image.new("RGB", (5, 4)).save(folder / f"{i}.png")
    table = folder / "own.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def check(table: Path, **args: Any) -> Inspection:
    return Table.inspect_data(table=str(table), sample_rate=RATE, **args)


def test_a_clean_table_passes(own: Path, cache_folder: Path) -> None:
    inspection = check(own)
    assert inspection.findings == ()
    assert inspection.summary == ("Table: 8 samples, 2 classes, 0.00 h of 8 sounds and 2 images checked")
    [space] = inspection.space
    assert (space.folder, space.size_bytes) == (cache_folder, 8 * RATE * 2)  # int16
    Table(own, RATE).prepare()
    assert check(own).space == ()


def missing(table: Path) -> None:
    (table.parent / "3.wav").unlink()
    (table.parent / "1.png").unlink()


def empty(table: Path) -> None:
    (table.parent / "3.wav").write_bytes(b"")


def stereo(table: Path) -> None:
    samples = np.random.default_rng(3).integers(-9999, 9999, (RATE, 2)).astype(np.int16)
    soundfile.write(table.parent / "3.wav", samples, RATE)


def no_image(table: Path) -> None:
    (table.parent / "1.png").write_text("<html>404</html>")


def bad_line(table: Path) -> None:
    table.write_text(table.read_text().replace("3.wav\t\tb\t1", "3.wav\t\tb\tone"))


def equal(table: Path) -> None:
    (table.parent / "4.wav").write_bytes((table.parent / "1.wav").read_bytes())


@pytest.mark.parametrize(
    ("plant", "what", "where"),
    [
        (missing, "The file is missing.", ["1.png (own.tsv, line 3)", "3.wav (own.tsv, line 5)"]),
        (empty, "The file is empty.", ["3.wav (own.tsv, line 5; 0 bytes)"]),
        (
            stereo,
            "Most clips have 1 channel; with mono None, others cannot join their batches.",
            ["3.wav (own.tsv, line 5; 2)"],
        ),
        (
            no_image,
            "The image cannot be decoded.",
            ["1.png (own.tsv, line 3; is an HTML page: its downl"],
        ),
        (bad_line, "A line of the table cannot be read.", ['{table}, line 5: fold is "one"; a whole number']),
        (equal, f"The same sound is in several folds, {LEAKS}", ["1.wav (fold 1, b), 4.wav (fold 2, a)"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_of_a_table_is_found(
    own: Path, plant: Callable[[Path], None], what: str, where: list[str]
) -> None:
    plant(own)
    findings = check(own).findings
    for finding, place in zip(findings, where, strict=True):
        assert (finding.severity, finding.what) == ("error", what)
        assert finding.where.startswith(place.format(table=own))


def test_equal_sounds_in_both_splits_are_found(own: Path) -> None:
    equal(own)  # in the other fold, and in the other split
    [finding] = check(own, split="test").findings
    assert finding.what == f"The same sound is in several splits, {LEAKS}"
    assert finding.where == "4.wav (training split, a), 1.wav (held-out split, b)"


def test_missing_files_are_warnings_if_they_may_be_skipped(own: Path) -> None:
    missing(own)
    inspection = check(own, missing="skip")
    assert {one.severity for one in inspection.findings} == {"warning"}
    for path in own.parent.glob("*.wav"):
        path.unlink()
    (own.parent / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match="10 of 10 files are missing"):
        check(own, missing="skip")


def test_space_is_estimated_from_the_lengths_of_segments(own: Path) -> None:
    table = own.with_name("parts.csv")
    table.write_text("audio,start,end\n0.wav,0,0.5\n0.wav,0.5,\n1.wav,0,0.25\n2.wav,,\n")
    [space] = check(table).space
    assert space.size_bytes == round(2.25 * RATE * 2)


def audioset(root: Path, classes: str = "") -> dict[str, Any]:
    """Write tables of one segment each, and their sounds; return the data set's arguments."""
    for n, name in enumerate(("balanced_train", "eval")):
        (root / f"{name}_segments.csv").write_text(f'# a\n# b\n# c\n{n:011d}, 0.000, 1.000, "/m/1"\n')
        soundfile.write(root / f"{n:011d}.wav", np.random.default_rng(n).normal(0, 0.1, RATE), RATE)
    (root / "class_labels_indices.csv").write_text(f"index,mid,display_name\n0,/m/1,One\n{classes}")
    return {"root": str(root), "sample_rate": RATE}


def test_audioset_is_checked_with_missing_files(tmp_path: Path) -> None:
    args = audioset(tmp_path)
    (tmp_path / "00000000001.jpg").write_text("no image")
    for name, mid in (("balanced_train", "/m/1"), ("eval", "/m/none")):
        with (tmp_path / f"{name}_segments.csv").open("a") as file:
            file.write(f'00000000009, 0.000, 10.000, "{mid}"\n')
    inspection = AudioSet.inspect_data(**args)
    assert [(one.severity, one.what) for one in inspection.findings] == [
        ("error", "A line of the table cannot be read."),
        ("warning", "Part of the data set is missing."),
        ("error", "The image cannot be decoded."),
    ]
    assert "2 segments listed, 1 with a sound" in inspection.findings[1].where
    assert "1 images checked" in inspection.summary


def test_the_command_checks_a_table(own: Path, run_check: Callable[..., tuple[int, str]]) -> None:
    args = {"table": str(own), "sample_rate": RATE, "fold": 1}
    status, report = run_check("Table", args, batch_train=2)
    assert status == 0 and "8 samples, 2 classes" in report
    missing(own)
    status, report = run_check("Table", args, batch_train=64, epochs=1)
    assert status == 1 and "error: The file is missing. (2 times)\n" in report
    assert "Setup.batch_train is 64, but the training split has 4 samples, fewer than one batch." in report


def test_too_large_a_batch_does_not_hide_other_errors(
    own: Path, run_check: Callable[..., tuple[int, str]]
) -> None:
    own.write_text(own.read_text().replace("label", "lable", 1))
    args = {"table": str(own), "sample_rate": RATE, "fold": 1}
    status, report = run_check("Table", args, batch_train=64, epochs=1)
    assert status == 1
    assert "training split has 4 samples, fewer than one batch. Lower it to 4 or less with -b." in report
    assert 'Unused columns: lable (did you mean "label"?). If one holds them, name it: --Dataset' in report


@pytest.mark.parametrize("held_out", [{"fold": 1}, {"fold": 1, "share": 0.2}, {"split": "test"}])
def test_a_sound_in_both_splits_is_an_error(held_out: dict[str, Any], folder: Path) -> None:
    """A share in the protocol does not hide the error if a flag holds out a fold."""
    name, sides = ("fold", (1, 2)) if "fold" in held_out else ("split", ("test", "train"))
    rows = [f"{i}.wav,dog,{sides[i % 2]}" for i in range(4)]
    table = folder / "own.csv"
    table.write_text("\n".join([f"file,label,{name}", *rows, f"0.wav,dog,{sides[1]}", ""]))
    found = check(table, **held_out).findings
    assert [one.what for one in found if one.severity == "error"] == [
        f"The same sound is in several {name}s, {LEAKS}"
    ]


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
    [finding] = check(folder / name).findings
    assert finding.what == "A line of the table cannot be read."
    assert said in finding.where


def test_if_no_line_can_be_read_each_reason_is_reported(folder: Path) -> None:
    (folder / "own.csv").write_text("file,label,fold\n0.wav,a,one\n1.wav,a,two\n2.wav,a\tb,1\n")
    with pytest.raises(ValueError, match="3 lines of the table cannot be read") as caught:
        check(folder / "own.csv")
    first, _, second = str(caught.value).partition(" is expected. ")
    assert 'line 2: fold is "one"; a whole number' in first
    assert 'line 4: label is "a\ufffdb"; text on one line' in second
    assert "line 3" not in str(caught.value)  # it fails for the same reason as line 2
    assert "lists no samples" not in str(caught.value)


def test_a_line_that_a_reader_cannot_skip_ends_the_check(esc50: Path) -> None:
    class Stubborn(ESC50):
        def read_table(self) -> list[Clip]:
            raise RowError(Place(self.root / self.table, 3), "wrong", "nothing helps.")

    with pytest.raises(ValueError, match=r"line 3: wrong; nothing helps\. 1 line and more of the table"):
        Stubborn.inspect_data(root=str(esc50))


def test_a_gap_in_the_table_of_classes_is_an_error(tmp_path: Path) -> None:
    args = audioset(tmp_path, "74,/m/2,Dog\n")
    with pytest.raises(ValueError, match=r"line 3: index is 74; 1 is expected\. The table lists all classes"):
        AudioSet.inspect_data(**args)


def test_an_unreadable_line_is_skipped_only_in_its_own_table(tmp_path: Path) -> None:
    args = audioset(tmp_path, "")
    table = tmp_path / "balanced_train_segments.csv"
    table.write_text(table.read_text().replace("/m/1", "/m/none") + '00000000000, 0.000, 1.000, "/m/1"\n')
    inspection = AudioSet.inspect_data(**args)
    assert [one.what for one in inspection.findings if one.severity == "error"] == [
        "A line of the table cannot be read."
    ]
    assert inspection.summary.startswith("AudioSet: 2 samples")  # line 4 of the other table is read


def test_names_that_look_alike_or_like_missing_values_are_warnings(folder: Path) -> None:
    names = ["dog", "do\u200bg", "none", "na\u200cme"]
    rows = "".join(f"{i}.wav,{name}\n" for i, name in enumerate(names))
    (folder / "own.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
    assert [(one.severity, one.what, one.where) for one in check(folder / "own.csv").findings] == [
        ("warning", "A class name looks like a missing value.", "none"),
        ("warning", "Several class names look alike.", r"'dog', 'do\u200bg'"),
    ]


def test_a_report_shows_joiners_but_escapes_control_characters() -> None:
    assert escaped("\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680") == (
        "\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680"
    )
    assert escaped("a\x1b[2J\nb\u202ec\x85\u2028") == r"a\x1b[2J\nb\u202ec\x85\u2028"
