"""Data sets know the recordings that their samples come from, and keep them apart."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from utils.datasets import ESC50, MadeSounds, Table, UrbanSound8K
from utils.datasets.sample import Entries, Entry
from utils.datasets.sources.cells import Record
from utils.datasets.sources.recordings import esc50_recording, freesound, us8k_recording


@pytest.mark.parametrize(
    ("values", "recording"),
    [
        ({"filename": "1-100032-A-0.wav", "src_file": "100032"}, "freesound:100032"),
        ({"filename": "1-100032-A-0.ogg"}, "freesound:100032"),
        ({"filename": "dog.wav", "src_file": "100032.0"}, "freesound:100032"),
        ({"filename": "dog.wav", "src_file": "my dog"}, None),
        ({"filename": "dog.wav"}, None),
    ],
)
def test_the_recording_of_an_esc50_clip_is_in_its_row_or_its_name(
    values: dict[str, str], recording: str | None
) -> None:
    assert esc50_recording(Record(Path("esc50.csv"), 2, values)) == recording


def test_the_recording_of_an_urbansound8k_clip_is_in_its_row_or_its_name() -> None:
    rows = [{"slice_file_name": "7383-3-0-0.wav", "fsID": "100032"}, {"slice_file_name": "7383-3-0-0.wav"}]
    found = [us8k_recording(Record(Path("table.csv"), 2, row)) for row in rows]
    assert found == ["freesound:100032", "freesound:7383"]


def test_only_numbers_name_a_sound_on_freesound() -> None:
    assert [freesound(number) for number in (7, "7", "7.0", "Not found", "\u0667", None)] == [
        *["freesound:7"] * 3,
        *[None] * 3,
    ]


def test_made_sounds_are_not_from_freesound(tmp_path: Path) -> None:
    made = MadeSounds(tmp_path / "made", seconds=0.1, clips_per_class_and_fold=1, cache=tmp_path / "cache")
    assert {str(source).partition(":")[0] for source in made.sources()} == {"made"}
    assert len(set(made.sources())) == len(made) == 30


def test_a_table_has_a_column_of_recordings(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "text,label,split,source\na,x,train,youtube:-0SdAVK79lg\nb,y,train,\nc,x,test,100032.0\n"
    )
    train, test = (Table(tmp_path / "own.csv", train=train, split="test") for train in (True, False))
    assert list(train.sources()) == ["youtube:-0SdAVK79lg", None]
    assert list(test.sources()) == ["100032"]
    assert train.unused_columns == ""
    assert list(Table(tmp_path / "own.csv", split="test", source=False).sources()) == [None, None]


def test_recordings_do_not_change_the_digest_of_entries() -> None:
    bare = [Entry("a.wav"), Entry("b.wav")]
    entries = Entries([bare[0]._replace(source="youtube:-0SdAVK79lg"), bare[1]])
    assert entries.digest == Entries(bare).digest
    assert list(entries.sources) == ["youtube:-0SdAVK79lg", None] == [entry.source for entry in entries]


@pytest.mark.parametrize("chosen", [[True, False, True], [False, False, True], [False] * 3])
def test_selected_entries_equal_entries_of_their_own(chosen: list[bool]) -> None:
    every = [Entry("a.wav", captions=("a", "b"), source="x:1"), Entry("bé.wav"), Entry("c.wav", source="y")]
    wanted = [entry for entry, is_chosen in zip(every, chosen, strict=True) if is_chosen]
    selected = Entries(every).select(np.array(chosen))
    assert list(selected) == wanted
    assert list(selected.sources) == [entry.source for entry in wanted]
    assert selected.digest == Entries(wanted).digest


@pytest.mark.real_data
@pytest.mark.parametrize(("kind", "name"), [(ESC50, "esc18"), (UrbanSound8K, "us8k-mini")])
def test_official_folds_do_not_share_a_recording(
    kind: type[ESC50 | UrbanSound8K], name: str, real_data: Callable[[str], Path]
) -> None:
    data = kind(real_data(name))
    folds: dict[str, set[int]] = defaultdict(set)
    for clip in data.clips:
        assert clip.source is not None and clip.source.startswith("freesound:")
        folds[clip.source].add(clip.fold)
    assert {len(numbers) for numbers in folds.values()} == {1}
    column = "src_file" if kind is ESC50 else "fsID"
    with (data.root / data.table).open(newline="") as file:
        numbers = {row[column] for row in csv.DictReader(file)}
    assert set(folds) == {f"freesound:{number}" for number in numbers}
