"""Find the columns of a user's table by name, and read its rows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from model.audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from model.clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES
from utils.datasets.sources.cells import all_whole, shown, whole
from utils.datasets.sources.entries import Entry
from utils.datasets.sources.own_times import Column, choose_times, segment_of
from utils.datasets.sources.records import Record, Records

_KNOWN = {
    "audio": (
        "audio",
        "file",
        "filename",
        "file_name",
        "path",
        "audio_path",
        "audio_file",
        "audio_filepath",
        "wav",
        "clip",
    ),
    "image": ("image", "images", "image_path", "image_file", "frame", "frames", "picture", "photo"),
    "text": ("text", "caption", "captions", "description", "sentence"),
    "labels": ("labels", "label", "category", "class", "classes", "tags", "tag"),
    "group": ("group",),
    "fold_column": ("fold",),
    "split_column": ("split", "subset"),
}
_TIMES = {"start": ("start",), "end": ("end",), "duration": ("duration",)}
_NEAR = 0.75  # of a name to a known one, by difflib's ratio: "lable" has 0.8
_MOST_UNUSED = 20  # columns that are named
_NAMED_FOLDS = ' (folds with names are splits: "fold_column": false, "split_column": "{}")'


class Columns(NamedTuple):
    """What a user says of the columns, and then the name of each; None: the table has none."""

    audio: Column
    image: Column
    text: Column
    labels: Column
    start: Column
    end: Column
    duration: Column
    group: Column
    fold_column: Column
    split_column: Column


class Row(NamedTuple):
    """One row: the sample, the value of its split, what it is held out together with, and its line."""

    entry: Entry
    split: str | None
    group: str
    line: int = 0


class TableContent(NamedTuple):
    """The rows of a table, and a text that names its unused columns, with suggestions; "": all are used."""

    rows: list[Row]
    unused: str


def read_table(table: Path, wanted: Columns, separator: str | None) -> TableContent:
    """Read the rows of a table.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no table, lacks a column, or a value is wrong.
    """
    records = Records.of(table)
    names = {what: _name(what, given, records) for what, given in wanted._asdict().items()}
    if names["audio"]:
        names |= choose_times(wanted._asdict(), records)
    if not any(names[what] for what in ("audio", "image", "text")):
        raise ValueError(
            f"{table} has no column of sounds, pictures or texts that is known by its name; it has "
            f"{', '.join(records.columns)[:1000] or 'none at all'}. Name it by audio, image or text."
        )
    twice = [name for name in names.values() if name is not None and records.columns.count(name) > 1]
    if twice:
        raise ValueError(f"{table} has several columns that are called {twice[0]}. Rename all but one.")
    rows = _with_whole_labels([_row(record, names, separator) for record in records])
    unused = list(_unused(records, wanted, names))
    more = [f"and {len(unused) - _MOST_UNUSED} more"] * (len(unused) > _MOST_UNUSED)
    return TableContent(rows, ", ".join([*unused[:_MOST_UNUSED], *more]))


def _unused(records: Records, wanted: Columns, names: dict[str, str | None]) -> Iterator[str]:
    """Name the columns that are not used, those like a name that is not there with a suggestion."""
    absent = [what for what, name in names.items() if name is None and getattr(wanted, what) is None]
    known = [name for what in absent for name in {**_KNOWN, **_TIMES}[what]]
    for column in records.columns:
        if column not in names.values():
            written = column.strip().lower().replace(" ", "_")
            near = difflib.get_close_matches(written, known, n=1, cutoff=_NEAR)
            misspelt = near and near[0] != written  # not where a duration is that of the whole file
            yield f'{shown(column)} (did you mean "{near[0]}"?)' if misspelt else shown(column)


def _name(what: str, given: Column, records: Records) -> str | None:
    """The name of a column, as it is given or found; times are left to `choose_times`."""
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
    return next((lower[name] for name in _KNOWN.get(what, ()) if name in lower), None)


def _row(record: Record, names: dict[str, str | None], separator: str | None) -> Row:
    audio, images = record.text(names["audio"]), record.texts(names["image"])
    if audio is not None and PurePath(audio).suffix.lower() in UNDECODED_AUDIO_SUFFIXES:
        record.fail(names["audio"], f"a kind of sound that is read, such as .flac ({CONVERT_AUDIO}),")
    if any(PurePath(path).suffix.lower() in UNDECODED_IMAGE_SUFFIXES for path in images):
        record.fail(names["image"], f"a kind of picture that is read, such as .jpg ({CONVERT_IMAGE}),")
    entry = Entry(
        audio=audio,
        images=images,
        text=record.caption(names["text"]),
        labels=record.texts(names["labels"], separator),
        segment=segment_of(record, names) if audio else None,
        fold=record.whole_number(names["fold_column"], hint=_NAMED_FOLDS.format(names["fold_column"])),
    )
    if entry.audio is None and not entry.images and entry.text is None:
        record.fail(names["audio"] or names["image"] or names["text"], "a sound, a picture or a text")
    group = whole(record.text(names["group"]) or "") or entry.audio or entry.name
    return Row(entry, whole(record.text(names["split_column"]) or "") or None, group, record.line)


def _with_whole_labels(rows: list[Row]) -> list[Row]:
    """The rows, with labels 1, 2, ... where all are whole numbers and some are written as `1.0`."""
    if not all_whole({label for row in rows for label in row.entry.labels}):
        return rows
    return [
        row._replace(entry=row.entry._replace(labels=tuple(dict.fromkeys(map(whole, row.entry.labels)))))
        for row in rows
    ]
