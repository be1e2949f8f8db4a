"""The official tables of AudioSet: segments of videos, names of classes, and what is a kind of what."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from utils.datasets.sources.records import LARGEST_BYTES, Record
from utils.datasets.sources.table import (
    Place,
    RowError,
    lines_left_out,
    read_rows,
    refuse_placeholder,
    seen_lines,
    unreadable_table,
)

SEGMENTS = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
CLASSES = "class_labels_indices.csv"
ONTOLOGY = "ontology.json"

VIDEO = r"[A-Za-z0-9_-]{11}"
"""Regular expression of what YouTube calls a video."""

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
_FOUND_IN = (".", "csv", "meta", "metadata", "segments")


class VideoSegment(NamedTuple):
    """One line: part of a video, and the names of its classes in the order of the table."""

    video: str
    begin: float
    end: float
    labels: tuple[str, ...]


def find_table(root: Path, name: str) -> Path:
    """Find a table in the root, or in a folder of it that is named for tables.

    Raises:
        FileNotFoundError: it is not there.
    """
    found = next((root / folder / name for folder in _FOUND_IN if (root / folder / name).is_file()), None)
    if found is None:
        folders = ", ".join(f"{folder}/" for folder in _FOUND_IN[1:])
        raise FileNotFoundError(
            f"root is {root}, which has no {name}, nor have {folders} in it; put the tables there that "
            "AudioSet publishes (research.google.com/audioset/download.html), or name their folder with "
            "--Dataset.args.root FOLDER."
        )
    return found


def read_classes(table: Path) -> dict[str, str]:
    """Read the names of the classes by their identifiers, such as "/m/09x0r", in the order of scores.

    Raises:
        ValueError: a number is out of its turn, or a name or an identifier is listed twice.
    """
    names: dict[str, str] = {}
    for row in read_rows(table, ["index", "mid", "display_name"]):
        mid, name = row.text("mid"), row.text("display_name")
        # No RowError: without a line, those behind it would have the wrong number.
        if row.whole_number("index") != len(names):
            raise ValueError(
                f"{table}, line {row.line}: index is {row.text('index')}; {len(names)} is expected. The "
                "table lists all classes, from 0 on, as AudioSet publishes it; only segments can be left out."
            )
        if mid in names or name in names.values():
            raise ValueError(f'{table}, line {row.line}: "{mid}" or "{name}" is listed a second time.')
        names[mid] = name
    if not names:
        raise ValueError(f"{table} lists no classes.")
    return names


def read_segments(table: Path, names: Mapping[str, str]) -> Iterator[VideoSegment]:
    """Read the segments of a table; lines that begin with `#` say nothing.

    Args:
        table: the file; after its comments a line is `YTID, start_seconds, end_seconds, "mid,mid"`.
        names: of the classes.

    Raises:
        ValueError: a value is wrong, or a video is listed twice; the message has file and line.
    """
    refuse_placeholder(table)
    if table.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{table} has more than {LARGEST_BYTES:,} bytes, as no table of segments has.")
    is_video = re.compile(VIDEO).fullmatch
    seen: set[str] = set()
    left_out = lines_left_out(table)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(seen_lines(file, table), skipinitialspace=True)
            for values in reader:
                if not values or values[0].startswith("#") or reader.line_num in left_out:
                    continue
                try:
                    video, begin, end, mids = values
                    segment = VideoSegment(
                        video, float(begin), float(end), tuple(names[mid] for mid in mids.split(","))
                    )
                except (ValueError, KeyError):
                    _refuse(table, reader.line_num, values, names)
                # Millions of lines: what is wrong with one is found out only once it is known to be wrong.
                if not (is_video(video) and 0 <= segment.begin < segment.end < 1e9) or video in seen:
                    _refuse(table, reader.line_num, values, names)
                seen.add(video)
                yield segment
    except (UnicodeDecodeError, csv.Error) as error:
        raise unreadable_table(table, error) from error


def _refuse(table: Path, line: int, values: Sequence[str], names: Mapping[str, str]) -> NoReturn:
    """Raise what is wrong with a line."""
    if len(values) != len(_COLUMNS):
        raise RowError(
            Place(table, line),
            f"{len(values)} values instead of {len(_COLUMNS)}",
            'a line is `YTID, start_seconds, end_seconds, "mid,mid"`.',
        )
    record = Record(table, line, dict(zip(_COLUMNS, values, strict=True)))
    if not re.fullmatch(VIDEO, values[0]):
        record.fail("YTID", "a YouTube identifier of 11 characters")
    begin, end = record.number("start_seconds"), record.number("end_seconds")
    if begin is None or end is None or end <= begin:
        record.fail("end_seconds", "a number of seconds after the start")
    unknown = [mid for mid in values[3].split(",") if mid not in names]
    if unknown:
        record.fail(
            "positive_labels", f"identifiers of {CLASSES} alone, which has no {unknown[0] or 'empty'},"
        )
    record.fail("YTID", "a video that no line before has")


def read_parents(ontology: Path, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Read which classes each class is a kind of, directly or not, by name, in the order of the classes.

    Raises:
        ValueError: the file is not the ontology.
    """
    try:
        listed: Any = json.loads(ontology.read_text(encoding="utf-8-sig"))
        children = {str(one["id"]): [str(child) for child in one["child_ids"]] for one in listed}
        if not children:
            raise ValueError("empty")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{ontology} is not AudioSet's ontology, a list of objects with id and child_ids: {error!r}."
        ) from error
    above: dict[str, set[str]] = {}
    for parent, below in children.items():
        for child in below:
            above.setdefault(child, set()).add(parent)

    def ancestors(mid: str) -> set[str]:
        found, waiting = set[str](), [mid]
        while waiting:
            new = above.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    found = {mid: ancestors(mid) for mid in names}
    return {
        name: tuple(names[other] for other in names if other in found[mid] and other != mid)
        for mid, name in names.items()
    }
