"""Which column of a user's table says what, and the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from model.sounds.decoding import Segment
from utils.datasets.entries import Entry
from utils.datasets.records import Record, Records

Column: TypeAlias = str | bool | None
"""Name of a column; None: it is found by its name; False: there is none."""

_KNOWN = {
    "audio": ("audio", "file", "filename", "file_name", "path", "audio_path", "audio_file", "wav", "clip"),
    "image": ("image", "images", "image_path", "image_file", "frame", "frames", "picture", "photo"),
    "text": ("text", "caption", "captions", "description", "sentence"),
    "labels": ("labels", "label", "category", "class", "classes", "tags", "tag"),
    "start": ("start", "start_seconds", "onset"),
    "end": ("end", "end_seconds", "offset"),
    "group": ("group",),
    "fold_column": ("fold",),
    "split_column": ("split", "subset"),
}


class Columns(NamedTuple):
    """What a user says of the columns, and then the name of each; None: the table has none."""

    audio: Column
    image: Column
    text: Column
    labels: Column
    start: Column
    end: Column
    group: Column
    fold_column: Column
    split_column: Column


class Row(NamedTuple):
    """One row: the sample, the value of its split, and what it is held out together with."""

    entry: Entry
    split: str | None
    group: str


def rows_of_table(table: Path, wanted: Columns, separator: str | None) -> Iterator[Row]:
    """Read the rows of a table.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no table, lacks a column, or a value is wrong.
    """
    records = Records.of(table)
    names = {what: _name(what, given, records) for what, given in wanted._asdict().items()}
    if not any(names[what] for what in ("audio", "image", "text")):
        raise ValueError(
            f"{table} has no column of sounds, pictures or texts that is known by its name; it has "
            f"{', '.join(records.columns)[:1000] or 'none at all'}. Name it by audio, image or text."
        )
    for record in records:
        yield _row(record, names, separator)


def _name(what: str, given: Column, records: Records) -> str | None:
    """The name of a column, as it is given or found."""
    argument = "labels" if what == "labels" else what
    if given is False:
        return None
    if given is not None and given not in records.columns:
        raise ValueError(
            f"{argument} is {given!r}; {records.table} has no such column, but "
            f"{', '.join(records.columns)[:1000] or 'none at all'}."
        )
    if isinstance(given, str):
        return given
    lower = {column.strip().lower(): column for column in reversed(records.columns)}
    return next((lower[name] for name in _KNOWN[what] if name in lower), None)


def _row(record: Record, names: dict[str, str | None], separator: str | None) -> Row:
    audio = record.text(names["audio"])
    entry = Entry(
        audio=audio,
        images=record.texts(names["image"]),
        text=record.text(names["text"]),
        labels=record.texts(names["labels"], separator),
        segment=_segment(record, names) if audio else None,
        fold=record.whole_number(names["fold_column"]),
    )
    if entry.audio is None and not entry.images and entry.text is None:
        record.fail(names["audio"] or names["image"] or names["text"], "a sound, a picture or a text")
    group = record.text(names["group"]) or entry.audio or entry.name
    return Row(entry, record.text(names["split_column"]), group)


def _segment(record: Record, names: dict[str, str | None]) -> Segment | None:
    start, end = record.number(names["start"]), record.number(names["end"])
    if start is None and end is None:
        return None
    if end is not None and end <= (start or 0.0):
        record.fail(names["end"], "a number of seconds after the start")
    return (start or 0.0, end)
