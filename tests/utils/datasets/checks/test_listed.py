"""`--check` of listed data sets: a user's table, and AudioSet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from utils.datasets import AudioSet, Table

RATE = 8000


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A table of eight sounds and two images, in two folds and two splits."""
    folder = tmp_path / "own"
    folder.mkdir()
    lines = ["audio\timages\tlabel\tfold\tsplit"]
    for i in range(8):
        samples = np.random.default_rng(i).integers(-9999, 9999, RATE).astype(np.int16)
        soundfile.write(folder / f"{i}.wav", samples, RATE)
        picture = f"{i}.png" if i < 2 else ""
        lines.append(f"{i}.wav\t{picture}\t{'ab'[i % 2]}\t{i // 4 + 1}\t{('train', 'test')[i % 2]}")
    for i in range(2):
        Image.new("RGB", (5, 4)).save(folder / f"{i}.png")
    table = folder / "own.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def test_a_clean_table_passes(own: Path, cache_folder: Path) -> None:
    inspection = Table.inspect_data(table=str(own), sample_rate=RATE)
    assert inspection.findings == ()
    assert inspection.summary == ("Table: 8 samples, 2 classes, 0.00 h of 8 sounds and 2 images checked")
    [space] = inspection.space
    assert (space.folder, space.size_bytes) == (cache_folder, 8 * RATE * 2)  # int16
    Table(own, RATE).prepare()
    assert Table.inspect_data(table=str(own), sample_rate=RATE).space == ()


def missing(table: Path) -> None:
    (table.parent / "3.wav").unlink()
    (table.parent / "1.png").unlink()


def empty(table: Path) -> None:
    (table.parent / "3.wav").write_bytes(b"")


def stereo(table: Path) -> None:
    samples = np.random.default_rng(3).integers(-9999, 9999, (RATE, 2)).astype(np.int16)
    soundfile.write(table.parent / "3.wav", samples, RATE)


def no_picture(table: Path) -> None:
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
            no_picture,
            "The image cannot be decoded.",
            ["1.png (own.tsv, line 3; is an HTML page: its downl"],
        ),
        (bad_line, "A line of the table cannot be read.", ['{table}, line 5: fold is "one"; a whole number']),
        (
            equal,
            "The same sound is in several folds, so it would be in both training and test data.",
            ["1.wav (fold 1, b), 4.wav (fold 2, a)"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_of_a_table_is_found(
    own: Path, plant: Callable[[Path], None], what: str, where: list[str]
) -> None:
    plant(own)
    findings = Table.inspect_data(table=str(own), sample_rate=RATE).findings
    for finding, place in zip(findings, where, strict=True):
        assert (finding.severity, finding.what) == ("error", what)
        assert finding.where.startswith(place.format(table=own))


def test_equal_sounds_in_both_splits_are_found(own: Path) -> None:
    equal(own)  # in the other fold, and in the other split
    args: dict[str, Any] = {"table": str(own), "sample_rate": RATE, "split": "test"}
    [finding] = Table.inspect_data(**args).findings
    assert (
        finding.what == "The same sound is in several splits, so it would be in both training and test data."
    )
    assert finding.where == "4.wav (training split, a), 1.wav (held-out split, b)"


def test_missing_files_are_warnings_if_they_may_be_skipped(own: Path) -> None:
    missing(own)
    inspection = Table.inspect_data(table=str(own), sample_rate=RATE, missing="skip")
    assert {one.severity for one in inspection.findings} == {"warning"}
    for path in own.parent.glob("*.wav"):
        path.unlink()
    (own.parent / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match="10 of 10 files are missing"):
        Table.inspect_data(table=str(own), sample_rate=RATE, missing="skip")


def test_space_is_estimated_from_the_lengths_of_segments(own: Path) -> None:
    table = own.with_name("parts.csv")
    table.write_text("audio,start,end\n0.wav,0,0.5\n0.wav,0.5,\n1.wav,0,0.25\n2.wav,,\n")
    [space] = Table.inspect_data(table=str(table), sample_rate=RATE).space
    assert space.size_bytes == round(2.25 * RATE * 2)


def test_audioset_is_checked_with_missing_files(tmp_path: Path) -> None:
    for name, start in (("balanced_train", 0), ("eval", 3)):
        lines = [f'{i:011d}, 0.000, 10.000, "/m/1"' for i in range(start, start + 3)]
        (tmp_path / f"{name}_segments.csv").write_text(
            "\n".join(["# one", "# two", "# three", *lines]) + "\n"
        )
    (tmp_path / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/1,"One, two"\n')
    for i in (0, 1, 3, 4, 5):
        soundfile.write(tmp_path / f"Y{i:011d}.wav", np.random.default_rng(i).normal(0, 0.1, RATE), RATE)
    (tmp_path / "00000000003.jpg").write_text("no image")
    with (tmp_path / "eval_segments.csv").open("a") as file:
        file.write('00000000009, 0.000, 10.000, "/m/none"\n')
    inspection = AudioSet.inspect_data(root=str(tmp_path), sample_rate=RATE)
    assert [(one.severity, one.what) for one in inspection.findings] == [
        ("error", "A line of the table cannot be read."),
        ("warning", "Part of the data set is missing."),
        ("error", "The image cannot be decoded."),
    ]
    assert "3 segments listed, 2 with a sound" in inspection.findings[1].where
    assert "1 images checked" in inspection.summary


def test_the_command_checks_a_table(own: Path, run_check: Callable[..., tuple[int, str]]) -> None:
    args = {"table": str(own), "sample_rate": RATE, "fold": 1}
    status, report = run_check("Table", args, batch_train=2)
    assert status == 0 and "8 samples, 2 classes" in report
    missing(own)
    status, report = run_check("Table", args, batch_train=64, epochs=1)
    assert status == 1 and "error: The file is missing. (2 times)\n" in report
    assert "Setup.batch_train is 64, but the training split has 4 samples, fewer than one batch." in report


def test_too_large_a_batch_hides_no_other_error(own: Path, run_check: Callable[..., tuple[int, str]]) -> None:
    own.write_text(own.read_text().replace("label", "lable", 1))
    args = {"table": str(own), "sample_rate": RATE, "fold": 1}
    status, report = run_check("Table", args, batch_train=64, epochs=1)
    assert status == 1
    assert "training split has 4 samples, fewer than one batch. Lower it to 4 or less with -b." in report
    assert 'Unused columns: lable (did you mean "label"?). If one holds them, name it: --Dataset' in report


@pytest.mark.parametrize("held_out", [{"fold": 1}, {"fold": 1, "share": 0.2}, {"split": "test"}])
def test_a_sound_in_both_splits_is_an_error(held_out: dict[str, Any], tmp_path: Path) -> None:
    """A share in the protocol does not hide it if a flag holds out a fold."""
    for i in range(4):
        samples = np.random.default_rng(i).integers(-9999, 9999, RATE).astype(np.int16)
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE)
    name, sides = ("fold", (1, 2)) if "fold" in held_out else ("split", ("test", "train"))
    rows = [f"{i}.wav,dog,{sides[i % 2]}" for i in range(4)]
    table = tmp_path / "own.csv"
    table.write_text("\n".join([f"file,label,{name}", *rows, f"0.wav,dog,{sides[1]}", ""]))
    found = Table.inspect_data(table=str(table), sample_rate=RATE, **held_out).findings
    assert [one.what for one in found if one.severity == "error"] == [
        f"The same sound is in several {name}s, so it would be in both training and test data."
    ]
