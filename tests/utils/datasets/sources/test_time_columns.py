"""Segments from the time columns of a table: their meaning, and questions about unclear ones."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from utils.datasets import AudioSet, Table
from utils.datasets.checks.segments import segment_findings
from utils.datasets.sample import Entry

RATE = 8000
LEAKS = "is in several folds, so it would be in both training and test data."
OVERLAP = f"warning: The overlap of two parts of a sound {LEAKS}"
IN_SEVERAL = f"error: The same part of a sound {LEAKS}"
LABELS = "error: The same part of a sound has several labels."
BEGINS = "error: The segment begins beyond the end of its file."
ENDS = "warning: The segment ends beyond the end of its file, so it is shorter than the table says."


def segment(folder: Path, columns: dict[str, Any], **args: Any) -> tuple[float, float | None] | None:
    """Return the segment of a row with these columns."""
    (folder / "own.jsonl").write_text(json.dumps({"file": "0.wav", **columns}) + "\n")
    return Table(folder / "own.jsonl", RATE, **args).entries[0].segment


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"offset": 0.3, "duration": 0.2}, (0.3, 0.5)),
        ({"offset": 0, "duration": 0.2}, (0.0, 0.2)),
        ({"offset": 0.3}, (0.3, None)),
        ({"offset": 0.3, "duration": None}, (0.3, None)),
        ({"offset": None, "duration": 0.2}, (0.0, 0.2)),
        ({"offset": 0.3, "end": 0.5}, (0.3, 0.5)),
        ({"onset": 0.3, "offset": 0.5}, (0.3, 0.5)),
        ({"onset": 0, "offset": 0.5, "duration": 0.5}, (0.0, 0.5)),
        ({"onset": 0.3, "duration": 0.25}, (0.3, 0.55)),
        ({"start": 0, "end": 0.5}, (0.0, 0.5)),
        ({"start_time": 0.25, "end_time": 0.5}, (0.25, 0.5)),
        ({"begin": 0.25, "end": 0.5, "offset": 3}, (0.25, 0.5)),
        ({"start": 0.25, "end": 0.5, "duration": 0.26}, (0.25, 0.5)),
        ({"xmin": 0.25, "ymin": 3, "xmax": 0.5, "ymax": 4}, None),  # a box in an image
        ({"x0": 0.25, "x1": 0.5, "x2": 0.75}, None),
        ({"start": 0.25}, (0.25, None)),
        ({"duration": 0.2}, None),
        ({"start": float("nan"), "end": float("nan")}, None),
        # spellings
        ({"Begin Time (s)": 0.3, "End Time (s)": 0.5}, (0.3, 0.5)),
        ({"Begin Time (s)": 0.3, "Delta Time (s)": 0.2}, (0.3, 0.5)),
        ({"Start (s)": 0.3, "End (s)": 0.5}, (0.3, 0.5)),
        ({"StartTime": 0.3, "EndTime": 0.5}, (0.3, 0.5)),
        ({"starttime": 0.3, "ENDTIME": 0.5}, (0.3, 0.5)),
        ({"start_ms": 300, "end_ms": 500}, (0.3, 0.5)),
        ({"Onset (ms)": 300, "Offset (ms)": 500}, (0.3, 0.5)),
        ({"start": 0.3, "duration_ms": 200}, (0.3, 0.5)),
        ({"tmin": 0.3, "tmax": 0.5}, (0.3, 0.5)),
        ({"t_start": 0.3, "t_end": 0.5}, (0.3, 0.5)),
        ({"begin": 0.3, "stop": 0.5}, (0.3, 0.5)),
        ({"start_time": 0.3, "stop_time": 0.5}, (0.3, 0.5)),
        ({"segment-start": 0.3, "segment-end": 0.5}, (0.3, 0.5)),
        ({"start_offset": 0.3, "end_offset": 0.5}, (0.3, 0.5)),
        ({"File Offset (s)": 0.3, "Delta Time (s)": 0.2}, (0.3, 0.5)),
        ({"Begin Time (s)": 0.3, "End Time (s)": 0.5, "Begin Sample": 2400, "start_ms": 9}, (0.3, 0.5)),
        ({"start": 0.3, "end": 0.5, "call_start": 0.4}, (0.3, 0.5)),
    ],
    ids=str,
)
def test_time_columns_select_a_segment(
    folder: Path, columns: dict[str, Any], expected: tuple[float, float | None] | None
) -> None:
    assert segment(folder, columns) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    "columns",
    [
        {"duration_ms": 500},
        {"Duration (s)": 0.5, "length": 9},
        {"time": 0.5, "timestamp": 1700000000, "date": "2020-01-01", "recorded_at": 3},
        {"start_date": 20200101, "Begin Clock Time": 9.5, "end_datetime": 3, "Begin File": 7},
        {"start_label": 3, "call_start": "the bird sings", "from": "Xeno-canto", "to": "dog"},
        {"audio_duration": 9, "num_frames": 90, "Low Freq (Hz)": 300, "weekend": 1, "restart": 2},
        {"call_start": None, "dc_offset": 0.1},
    ],
    ids=str,
)
def test_other_columns_are_not_asked_about(folder: Path, columns: dict[str, Any]) -> None:
    assert segment(folder, columns) is None


START, END = "may hold the start of the segment", "may hold the end of the segment"
OTHER_UNIT = ", but not in seconds or milliseconds. Add"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"call_start": 0.3},
            f'call_start {START}: if so, set "start": "call_start"; if not, "start": false.',
        ),
        ({"call_start": "0:01.5", "call_end": "0:02"}, 'if so, set "end": "call_end"; if not, "end": false.'),
        ({"from": 0.3, "to": 0.5}, f'set "start": "from"; if not, "start": false. to {END}'),
        ({"start_sample": 9}, 'in seconds and name it with "start", or set "start": false.'),
        ({"start": 0.3, "end_frame": 9}, f"end_frame {END}{OTHER_UNIT}"),
        ({"frame_offset": 9, "num_frames": 9}, f"frame_offset {START}{OTHER_UNIT}"),
        ({"start_min": 1}, f"start_min {START}{OTHER_UNIT}"),
        ({"start_index": 1, "call_start": 2}, f"call_start {START}: if so"),
        ({"start": 0.3, "length": 9}, 'length may hold the duration of the segment: if so, set "duration"'),
        ({"start": 0.3, "clip_duration": 9}, "clip_duration may hold the duration of the segment: if so"),
        (
            {"start": 0.3, "begin": 0.4, "end": 0.5},
            f'start or begin {START}: set "start" to the column that does',
        ),
        ({"Begin Time (s)": 9, "File Offset (s)": 0.4}, f"Begin Time (s) or File Offset (s) {START}"),
        ({"time": 0.3, "duration": 0.2}, f"time {START}: if so"),
        (
            {"stop": 0.5},
            "has the end column stop, but no recognised start column. Its columns are file, stop",
        ),
        ({"onset_ms": 500, "end_ms": 400}, 'end_ms is "400"; a time in milliseconds later than the start'),
        (
            {"start_ms": 200, "end_ms": 500, "duration_ms": 9},
            'duration_ms is "9"; 300, from 0.2 to 0.5 s (if',
        ),
        ({"start": 0.2, "offset": 0.5}, 'If offset is the end, set "end": "offset"; if it is the start'),
        ({"start": 0.2, "end": 0.5, "duration": 9}, 'duration is "9"; 0.3, from 0.2 to 0.5 s (if'),
        ({"offset": 0.2, "duration": 0}, 'duration is "0"; a number of seconds above zero'),
        ({"start": 0, "end": 0}, 'end is "0"; a time in seconds later than the start'),
        ({"offset": -1, "duration": 1}, 'offset is "-1"; a number of zero or more'),
    ],
    ids=str,
)
def test_columns_that_may_be_times_are_asked_about(folder: Path, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        segment(folder, columns)


@pytest.mark.parametrize(
    ("columns", "args", "expected"),
    [
        ({"call_start": 0.3, "call_end": 0.5}, {"start": "call_start", "end": "call_end"}, (0.3, 0.5)),
        ({"call_start": 0.3, "call_end": 0.5}, {"start": False, "end": False}, None),
        ({"start_sample": 9, "end_sample": 99}, {"start": False, "end": False}, None),
        ({"start": 0.3, "begin": 0.4, "end": 0.5}, {"start": "begin"}, (0.4, 0.5)),
        ({"start": 0.3, "length": 9}, {"duration": False}, (0.3, None)),
        ({"call_start_ms": 300}, {"start": "call_start_ms"}, (0.3, None)),
        ({"start": 0.2, "offset": 0.5}, {"end": "offset"}, (0.2, 0.5)),
        ({"start": 0.2, "offset": 0.5}, {"start": "offset"}, (0.5, None)),
        ({"start": 0.2, "offset": 0.5}, {"end": False}, (0.2, None)),
        ({"end": 0.5}, {"end": False}, None),
        ({"end": 0.5}, {"start": False}, (0.0, 0.5)),
        ({"onset": 0.2, "offset": 0.5}, {"start": False, "end": False}, None),
        ({"offset": 0.2}, {"start": False}, None),
        ({"start": 0.2, "end": 0.5, "duration": 9}, {"duration": False}, (0.2, 0.5)),
        ({"start": 0.2, "end": 9, "duration": 0.3}, {"end": False}, (0.2, 0.5)),
        ({"seconds": 0.5}, {"duration": "seconds"}, (0.0, 0.5)),
    ],
    ids=str,
)
def test_an_argument_settles_the_meaning_of_a_column(
    folder: Path, columns: dict[str, Any], args: dict[str, Any], expected: tuple[float, float | None] | None
) -> None:
    assert segment(folder, columns, **args) == (expected and pytest.approx(expected))


def test_an_argument_cannot_name_a_column_of_samples(folder: Path) -> None:
    with pytest.raises(ValueError, match='"start" names the column start_sample, whose unit is not seconds'):
        segment(folder, {"start_sample": 9}, start="start_sample")


def test_times_of_tables_without_sounds_are_not_asked_about(folder: Path) -> None:
    (folder / "own.csv").write_text("caption,stop,start_frame\na dog,3,9\n")
    assert Table(folder / "own.csv", RATE).entries[0].segment is None


def test_a_start_and_a_duration_select_samples(folder: Path) -> None:
    segment(folder, {"offset": 0.25, "duration": 0.5})
    whole, _ = soundfile.read(folder / "0.wav", dtype="int16")
    assert np.array_equal(Table(folder / "own.jsonl", RATE)[0].audio[0], whole[2000:6000])


def cut_from_recordings(folder: Path) -> Path:
    """Write a table like UrbanSound8K's: files of one second, and their times in longer recordings."""
    lines = [f"{i}.wav,{start},{start + 1},{'ab'[i % 2]}" for i, start in enumerate((0, 0.5, 2, 30.25, 0, 7))]
    (folder / "own.csv").write_text("\n".join(["file,start,end,label", *lines]) + "\n")
    return folder / "own.csv"


@pytest.mark.parametrize("cache", [None, False])
def test_times_of_the_recordings_that_files_were_cut_from_are_refused_before_training(
    folder: Path, cache: bool | None
) -> None:
    table = cut_from_recordings(folder)
    with pytest.raises(ValueError, match="4 of 4 segments that do not begin with their file") as caught:
        Table(table, RATE, cache=cache).prepare()
    assert "such as 1.wav#t=0.5,1.5" not in str(caught.value) or "(1.00 s)" in str(caught.value)
    assert '"start": false, "end": false' in str(caught.value)
    whole = Table(table, RATE, cache=cache, start=False, end=False)
    whole.prepare()
    assert whole[1].audio.shape == (1, RATE)


@pytest.mark.parametrize("read", [lambda data: data[0], lambda data: data.look_at(0)])
def test_times_of_recordings_are_refused_by_the_first_sample_that_is_read_without_a_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Table], Any]
) -> None:
    headers: list[object] = []
    info = soundfile.info

    def counted(path: object) -> Any:
        headers.append(path)
        return info(path)

    monkeypatch.setattr(soundfile, "info", counted)
    data = Table(cut_from_recordings(folder), RATE, cache=False)
    assert not headers
    for _ in range(2):
        with pytest.raises(ValueError, match=r'4 of 4 segments .* lie beyond its end.*"start": false'):
            read(data)
    assert len(headers) == 4  # once for each file
    whole = Table(cut_from_recordings(folder), RATE, cache=False, start=False, end=False, duration=False)
    assert read(whole).audio.shape[1] == soundfile.info(whole.root / str(whole.entries[0].audio)).frames


def test_times_of_recordings_are_reported_as_one_finding(folder: Path) -> None:
    [finding] = Table.inspect_data(table=str(cut_from_recordings(folder)), sample_rate=RATE).findings
    assert finding.severity == "error"
    assert finding.what == "4 of 4 segments that do not begin with their file lie beyond its end."
    assert '"start": false, "end": false' in finding.remedy


def test_files_with_the_segments_of_audioset_are_not_taken_for_complete_videos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    lines = ["# one", "# two", "# three", *(f'{i:011d}, 30.000, 31.000, "/m/1"' for i in range(3))]
    for name in ("balanced_train", "eval"):
        (tmp_path / f"{name}_segments.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/1,One\n")
    for i in range(3):
        soundfile.write(tmp_path / f"{i:011d}.wav", np.full(RATE, 9 + i, np.int16), RATE)
    with pytest.raises(ValueError, match='set "whole_videos": false'):
        AudioSet(tmp_path, RATE, whole_videos=True).prepare()
    AudioSet(tmp_path, RATE).prepare()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            "0.wav,0,0.3,a,1 0.wav,0,0.3,a,2",
            [f"{IN_SEVERAL} 0.wav#t=0,0.3 (fold 1, a), 0.wav#t=0,0.3 (fold 2, a)"],
        ),
        (
            "0.wav,0,0.3,a,1 copy.wav,0,0.3,a,2",
            [f"{IN_SEVERAL} 0.wav#t=0,0.3 (fold 1, a), copy.wav#t=0,0.3 (fold 2, a)"],
        ),
        ("0.wav,,,a,1 0.wav,0.5,1,a,2", [f"{IN_SEVERAL} 0.wav (fold 1, a), 0.wav#t=0.5,1 (fold 2, a)"]),
        (
            "0.wav,0,0.3,a,1 0.wav,0,0.3,b,1",
            [f"{LABELS} 0.wav#t=0,0.3 (fold 1, a), 0.wav#t=0,0.3 (fold 1, b)"],
        ),
        (
            "0.wav,0,0.6,a,1 0.wav,0.5,1,a,2",
            [f"{OVERLAP} 0.wav#t=0,0.6 (fold 1, a), 0.wav#t=0.5,1 (fold 2, a)"],
        ),
        (
            "0.wav,7,8,a,1 1.wav,0,0.3,b,2 1.wav,0.3,0.6,a,2 2.wav,0.5,1.3,b,2 3.wav,0.2,0.9,a,1",
            [f"{BEGINS} 0.wav#t=7,8 (1.00 s)", f"{ENDS} 2.wav#t=0.5,1.3 (1.00 s)"],
        ),
        ("0.wav,0,0.5,a,1 0.wav,0.5,1,a,2 1.wav,0,0.5,a,1 1.wav,0.2,0.7,a,1", []),
        ("0.wav,0,1.05,a,1 1.wav,0.3,1.0001,a,2", []),
    ],
)
def test_segments_are_compared_with_their_sounds_and_each_other(
    folder: Path, rows: str, expected: list[str]
) -> None:
    (folder / "copy.wav").write_bytes((folder / "0.wav").read_bytes())
    (folder / "own.csv").write_text("\n".join(["file,start,end,label,fold", *rows.split()]) + "\n")
    findings = Table.inspect_data(table=str(folder / "own.csv"), sample_rate=RATE).findings
    assert [f"{one.severity}: {one.what} {one.where}" for one in findings] == expected


def test_segments_are_compared_between_splits(folder: Path) -> None:
    (folder / "own.csv").write_text(
        "file,start,end,label,split\n0.wav,0,0.3,a,train\n0.wav,0,0.3,a,test\n1.wav,0,0.3,b,train\n"
    )
    args: dict[str, Any] = {"table": str(folder / "own.csv"), "sample_rate": RATE, "split": "test"}
    [finding] = Table.inspect_data(**args).findings
    assert finding.what.startswith("The same part of a sound is in several splits")


def in_folds(parts: Iterable[tuple[float, float, int]]) -> list[tuple[str, Entry]]:
    return [("", Entry("a.wav", (), (), ("x",), (begin, end), fold)) for begin, end, fold in parts]


def test_comparing_segments_finds_the_same_as_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        begins, lengths = rng.integers(0, 20, 12).tolist(), rng.integers(1, 6, 12).tolist()
        ends = [begin + length for begin, length in zip(begins, lengths, strict=True)]
        parts = list(zip(begins, ends, rng.integers(1, 4, 12).tolist(), strict=True))
        # Of two segments in different folds that overlap, the one that begins later is named.
        expected = {
            max(one[:2], other[:2], key=lambda part: (part[0], -part[1]))
            for one, other in itertools.combinations(parts, 2)
            if one[2] != other[2] and min(one[1], other[1]) > max(one[0], other[0])
        }
        findings = list(segment_findings(in_folds(parts), {}, place="fold", remedy=""))
        named = {
            (int(begin), int(end))
            for finding in findings
            for begin, end in re.findall(r"a\.wav#t=(\d+),(\d+)", finding.where)
        }
        assert expected <= named
        assert bool(expected) == bool(findings)


@pytest.mark.parametrize("length", [1.0, 3.0, 1e6])
def test_many_segments_of_a_recording_are_compared_quickly(length: float) -> None:
    placed = in_folds((i, i + length, i) for i in range(8000))
    started = time.process_time()
    findings = list(segment_findings(placed, {}, place="fold", remedy=""))
    assert time.process_time() - started < 3
    assert len(findings) == (0 if length == 1 else 7999)


def test_the_same_segment_in_many_folds_is_reported_as_one_finding() -> None:
    placed = in_folds((0.0, 1.0, fold) for fold in range(8000))
    started = time.process_time()
    [finding] = segment_findings(placed, {}, place="fold", remedy="")
    assert time.process_time() - started < 3
    assert finding.where.endswith("and 7,995 more")
