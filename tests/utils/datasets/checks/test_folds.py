"""`--check` finds every planted fault, and passes clean data sets."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import utils.datasets
from ignite_trainer.api.findings import Finding
from model.storage.places import default_cache_folder
from utils.datasets import ESC50, MadeSounds

SMALL: dict[str, Any] = {"seconds": 0.3, "clips_per_class_and_fold": 2}
RunCheck = Callable[..., tuple[int, str]]
KINDS: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    # class, its arguments, columns of file, target and class
    "made": ("MadeSounds", SMALL, ("filename", "target", "category")),
    "us8k": ("UrbanSound8K", {"mono": False}, ("slice_file_name", "classID", "class")),
}


@dataclass
class Planted:
    """A data set in which to plant faults: the rows of its table, written by `save`, and their files."""

    kind: str
    root: Path

    def __post_init__(self) -> None:
        self.name, self.args, (self.file, self.target, self.label) = KINDS[self.kind]
        (self.table,) = self.root.glob("meta*/*.csv")
        with self.table.open(newline="") as file:
            self.rows = list(csv.DictReader(file))

        def same_class(first: dict[str, str], *, same_fold: bool) -> list[dict[str, str]]:
            others = (row for row in self.rows if row is not first and row[self.label] == first[self.label])
            return [row for row in others if (row["fold"] == first["fold"]) == same_fold]

        # A clip, and two more clips of its class: one in the same fold and one in another.
        self.first, self.here, self.elsewhere = next(
            (row, here[0], elsewhere[0])
            for row in self.rows
            if (here := same_class(row, same_fold=True)) and (elsewhere := same_class(row, same_fold=False))
        )
        self.dataset = self.name, {"root": str(self.root), "fold": int(self.first["fold"]), **self.args}

    def relative(self, row: dict[str, str]) -> str:
        return (
            f"audio/{row[self.file]}" if self.kind == "made" else f"audio/fold{row['fold']}/{row[self.file]}"
        )

    def path(self, row: dict[str, str]) -> Path:
        return self.root / self.relative(row)

    def save(self) -> None:
        with self.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0].keys())
            writer.writeheader()
            writer.writerows(self.rows)

    def write(self, samples: Any, *, rate: int = 44100, subtype: str = "PCM_16") -> str:
        """Write these samples to the file of the first clip; return its path."""
        soundfile.write(self.path(self.first), samples, rate, subtype=subtype)
        return self.relative(self.first)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "set"
    MadeSounds(root, progress=False, cache=root.parent, **SMALL)
    return root


@pytest.fixture(params=["made", pytest.param("us8k", marks=pytest.mark.real_data)])
def planted(
    request: pytest.FixtureRequest, made: Path, real_data: Callable[[str], Path], tmp_path: Path
) -> Planted:
    """Copy each of the two data sets."""
    source = made if request.param == "made" else real_data("us8k-mini")
    shutil.copytree(source, tmp_path / "set")
    return Planted(request.param, tmp_path / "set")


@pytest.fixture
def planted_made(made: Path, tmp_path: Path) -> Planted:
    """Copy the synthetic data set."""
    shutil.copytree(made, tmp_path / "set")
    return Planted("made", tmp_path / "set")


def test_a_clean_set_passes_and_nothing_is_written(planted: Planted, run_check: RunCheck) -> None:
    before = sorted(planted.root.rglob("*"))
    status, report = run_check(*planted.dataset, batch_train=4)
    assert status == 0
    assert "error:" not in report and "0 errors" in report
    assert sorted(planted.root.rglob("*")) == before
    assert not list(Path(os.environ["AUDIOCLIP_CACHE"]).glob("*"))
    if planted.kind == "made":
        assert "0 errors, 0 warnings" in report


# Each function plants one fault; it returns the finding and the place that the report must name.
Said = tuple[str, str]


def missing(planted: Planted) -> Said:
    planted.path(planted.first).unlink()
    return "error: The file is missing.", planted.relative(planted.first)


def column(planted: Planted) -> Said:
    text = planted.table.read_text()
    planted.table.write_text(text.replace(f"{planted.label}", "kind", 1))
    return "error: Dataset", f"has no column {planted.label}"


def empty_table(planted: Planted) -> Said:
    planted.table.write_text(planted.table.read_text().splitlines()[0] + "\n")
    return "error: Dataset", "lists no clips"


def malformed_fold(planted: Planted) -> Said:
    planted.first["fold"] = "one"
    planted.save()
    return (
        "error: A line of the table cannot be read.",
        'fold is "one"; a whole number of at most 9 digits is',
    )


def another_fold(planted: Planted) -> Said:
    planted.first["fold"] = "2" if planted.first["fold"] == "1" else "1"
    planted.save()
    kind = "The file name states another fold" if planted.kind == "made" else "The file is missing."
    return f"error: {kind}", planted.relative(planted.first)


def another_label(planted: Planted) -> Said:
    labels = {row[planted.label] for row in planted.rows}
    planted.first[planted.label] = max(labels - {planted.first[planted.label]})
    planted.save()
    return "error: Target and label contradict other clips.", planted.relative(planted.first)


def another_class(planted: Planted) -> Said:
    other = next(row for row in planted.rows if row[planted.label] != planted.first[planted.label])
    planted.first |= {key: other[key] for key in (planted.target, planted.label)}
    planted.save()
    return "error: The file name states another target", planted.relative(planted.first)


def target_out_of_range(planted: Planted) -> Said:
    planted.first |= {planted.target: "999", planted.label: "new"}
    planted.save()
    return "warning: The target is out of range", f"{planted.relative(planted.first)} (999, new)"


def class_absent_from_a_fold(planted: Planted) -> Said:
    label, fold = planted.first[planted.label], planted.first["fold"]
    gone = [row for row in planted.rows if (row[planted.label], row["fold"]) == (label, fold)]
    planted.rows = [row for row in planted.rows if row not in gone]
    for row in gone:
        planted.path(row).unlink()
    planted.save()
    return "warning: A fold has no clip of a class.", f"fold {fold}: {label.replace('_', ' ')}"


def equal_in_two_folds(planted: Planted) -> Said:
    shutil.copy(planted.path(planted.first), planted.path(planted.elsewhere))
    return "error: The same sound is in several folds", planted.relative(planted.elsewhere)


def equal_in_two_folds_as_another_file(planted: Planted) -> Said:
    samples, rate = soundfile.read(planted.path(planted.first), dtype="float32", always_2d=True)
    doubled = samples if samples.shape[1] == 2 else samples.repeat(2, axis=1)
    soundfile.write(planted.path(planted.elsewhere), doubled, rate, subtype="FLOAT")
    return "error: The same sound is in several folds", planted.relative(planted.elsewhere)


def equal_in_one_fold(planted: Planted) -> Said:
    shutil.copy(planted.path(planted.first), planted.path(planted.here))
    return "warning: The same sound is in one fold several times", planted.relative(planted.here)


def equal_with_another_label(planted: Planted) -> Said:
    fold, label = planted.first["fold"], planted.first[planted.label]
    other = next(row for row in planted.rows if row["fold"] == fold and row[planted.label] != label)
    shutil.copy(planted.path(planted.first), planted.path(other))
    return "error: The same sound has several labels.", planted.relative(other)


def listed_twice(planted: Planted) -> Said:
    planted.rows.append(planted.first)
    planted.save()
    return "error: The table lists a clip several times.", f"{planted.relative(planted.first)} (2 lines)"


def not_in_the_table(planted: Planted) -> Said:
    path = planted.path(planted.first).with_name("stray.flac")
    soundfile.write(path, np.zeros(10), 44100)
    return "warning: The table does not list this file", path.relative_to(planted.root).as_posix()


def control_characters(planted: Planted) -> Said:
    label = planted.first[planted.label]
    for row in planted.rows:
        row[planted.label] = row[planted.label].replace(label, "\x1b[2J[red]" + label)
    planted.save()
    return "error: A line of the table cannot be read", "without control characters"


FAULTS = [
    plant
    for plant in list(globals().values())
    if getattr(plant, "__annotations__", {}).get("return") == "Said"
]
# Changes to the bytes of a file, with the finding and its text.
CONTENTS: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "empty": (lambda _: b"", "error: The file is empty.", " (0 bytes)"),
    "unreadable": (lambda _: b"<html>404</html>", "error: The file cannot be decoded.", ""),
    "truncated": (
        lambda whole: whole[: len(whole) // 2],
        "error: The file is truncated.",
        " (its header promi",
    ),
}
RAMP = np.linspace(-0.5, 0.5, 44100)
SAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "none": ({"samples": np.zeros(0)}, "error: The file is empty.", " (no samples)"),
    "silence": ({"samples": np.zeros(44100)}, "warning: All samples are equal", ""),
    "NaN": (
        {"samples": np.where(RAMP > 0.4, np.nan, RAMP), "subtype": "FLOAT"},
        *("error: The file holds NaN or infinite samples.", ""),
    ),
    "another rate": (
        {"samples": RAMP[::11], "rate": 4000},
        *("warning: The sample rate is below the sample_rate of 44100 Hz", " (4000 Hz)"),
    ),
    "too few": ({"samples": RAMP[::100]}, "warning: The sound is much shorter", ""),
    "other channels": ({"samples": np.stack([RAMP] * 3, axis=1)}, "error: Most clips have", " (3)"),
}


def assert_found(planted: Planted, what: str, where: str) -> None:
    """Check that the fault is found, that nothing is written, and that no control character is shown."""
    kind = getattr(utils.datasets, planted.name)
    try:
        findings = kind.inspect_data(root=str(planted.root), progress=False, **planted.args).findings
    except ValueError as error:
        findings = (Finding(severity="error", what="Dataset", where=str(error)),)
    found = [(f"{one.severity}: {one.what}", one.where) for one in findings]
    assert [one for one in found if one[0].startswith(what) and where in one[1]], found
    assert not any("\x1b" in where for _, where in found)
    assert not list(Path(os.environ["AUDIOCLIP_CACHE"]).glob("*"))


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(planted: Planted, plant: Callable[[Planted], Said]) -> None:
    assert_found(planted, *plant(planted))


@pytest.mark.parametrize("kind", CONTENTS)
def test_damaged_files_are_found(planted: Planted, kind: str) -> None:
    change, what, where = CONTENTS[kind]
    path = planted.path(planted.first)
    path.write_bytes(change(path.read_bytes()))
    assert_found(planted, what, planted.relative(planted.first) + where)


@pytest.mark.parametrize("kind", SAMPLES)
def test_faults_of_samples_are_found(planted: Planted, kind: str) -> None:
    content, what, where = SAMPLES[kind]
    assert_found(planted, what, planted.write(**content) + where)


def test_all_faults_of_a_set_are_in_one_report(planted_made: Planted, run_check: RunCheck) -> None:
    planted = planted_made
    for row in planted.rows[10:20]:
        planted.path(row).unlink()
    planted.path(planted.rows[20]).write_bytes(b"")
    soundfile.write(planted.path(planted.rows[21]), np.zeros(13230), 44100)
    planted.rows[22]["fold"] = planted.rows[23]["target"] = "none"
    planted.save()
    status, report = run_check(*planted.dataset, "--Dataset.args.fold", "9", batch_train=4)
    assert status == 1
    assert "error: The file is missing. (10 times)\n" in report
    assert "    and 5 more\n" in report
    assert "error: The file is empty.\n" in report
    assert "error: A line of the table cannot be read. (2 times)\n" in report
    assert "warning: All samples are equal: silence.\n" in report
    assert report.rindex("error: ") < report.index("warning: ")


@pytest.mark.parametrize(("count", "said"), [(20, "20 lines of"), (60, "50 lines and more of")])
def test_an_unreadable_table_is_reported_once(
    count: int, said: str, planted_made: Planted, run_check: RunCheck
) -> None:
    planted = planted_made
    planted.rows = planted.rows[:count]
    for row in planted.rows:
        row["target"] = "-1"
    planted.save()
    status, report = run_check(*planted.dataset, batch_train=4)
    assert status == 1
    assert 'line 2: target is "-1"; a whole number of at most 9 digits is expected. ' + said in report
    assert "1 error, 0 warnings" in report


def test_a_nonexistent_fold_is_found_by_the_check(planted_made: Planted, run_check: RunCheck) -> None:
    status, report = run_check(*planted_made.dataset, "--Sweep.Dataset.args.fold", "1", "9", batch_train=4)
    assert status == 1
    assert "error: Dataset.args.fold is 9; MadeSounds has folds 1 to 5.\n" in report
    assert "1 error, 0 warnings" in report


def test_files_of_skipped_clips_are_not_reported(esc50: Path) -> None:
    assert ESC50.inspect_data(root=str(esc50), esc10=True).summary.startswith("ESC-50: 10 clips, 2 classes")
    found = ESC50.inspect_data(root=str(esc50), esc10=True).findings
    assert not [finding for finding in found if "does not list" in finding.what]


def test_an_incomplete_published_set_is_a_warning_that_states_its_name_in_results(esc50: Path) -> None:
    found = [one for one in ESC50.inspect_data(root=str(esc50)).findings if "Part of the data" in one.what]
    assert [(one.severity, one.where) for one in found] == [
        ("warning", "part of ESC-50 (15 clips, 3 classes); 2,000 clips are published")
    ]
    assert found[0].where.startswith(ESC50(esc50).results_name)


def test_the_space_for_decoded_clips_is_estimated(made: Path) -> None:
    args: dict[str, Any] = {"root": str(made), "sample_rate": 32000, "progress": False, **SMALL}
    (space,) = MadeSounds.inspect_data(**args).space
    assert space.folder == default_cache_folder()
    MadeSounds(**args).prepare()
    (audio,) = space.folder.glob("*/audio.bin")
    assert space.size_bytes == pytest.approx(audio.stat().st_size, rel=0.01)
    assert MadeSounds.inspect_data(**args).space == ()
