"""Finds the columns of a user's table by name, and reads its rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from model.audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from model.clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES
from utils.datasets.sample import Entry
from utils.datasets.sources.cells import Record, all_whole, shortlist, shown, whole
from utils.datasets.sources.tables import KINDS, Records, read_table
from utils.datasets.sources.time_columns import Column, choose_times, segment_of

# Known column names, by the argument of `Table` that can name another column.
_KNOWN = {
    "audio": "audio file filename file_name path audio_path audio_file audio_filepath wav clip".split(),  # noqa: SIM905
    "image": "image images image_path image_file frame frames picture photo".split(),  # noqa: SIM905
    "text": "text caption captions description sentence".split(),  # noqa: SIM905
    "labels": "labels label category class classes tags tag".split(),  # noqa: SIM905
    "group": ["group"],
    "source": ["source"],
    "fold_column": ["fold"],
    "split_column": ["split", "subset"],
}
_NUMBERED_CAPTION = re.compile(r"captions?_?\d+")  # caption_1 ... caption_5, as in Clotho
_NEAR = 0.75  # minimum similarity to a known name, as difflib's ratio: "lable" has 0.8
_MOST_UNUSED = 20  # maximum number of unused columns in a message
_NAMED_FOLDS = ' (folds with names are splits: "fold_column": false, "split_column": "{}")'
_TO_NAME_ANOTHER = "Name another table with --Dataset.args.table FILE."


class Row(NamedTuple):
    """A sample, its split, its group (rows that are held out together), and its line."""

    entry: Entry
    split: str | None
    group: str
    line: int = 0


class Content(NamedTuple):
    """The content of a user's table or folder.

    Attributes:
        rows: rows, one per sample.
        unused_columns: names of unused columns, with suggestions for mistyped names; "" if all are used.
        ignored: message about ignored files; "" if no file is ignored.
        held_out: values of the split that are held out unless arguments say otherwise.
        merged: messages about several rows of one clip.
    """

    rows: list[Row]
    unused_columns: str = ""
    ignored: str = ""
    held_out: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()


def read_own_table(table: Path, given: Mapping[str, Column], separator: str | None) -> Content:
    """Read the rows of a table; `given` are the arguments of `Table` that name columns.

    Raises:
        FileNotFoundError: The table does not exist.
        ValueError: The file is not a table, lacks a column, or contains an invalid value.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such table or folder. {_tables_beside(table)}")
    records = read_table(table)
    names = {argument: _name(argument, column, records) for argument, column in given.items()}
    if names["audio"]:
        names |= choose_times(given, records)
    captions = _caption_columns(names["text"], given["text"], records)
    if not any((names["audio"], names["image"], *captions)):
        raise ValueError(
            f"{table} has no column of sounds, images or texts with a known name; it has "
            f"{', '.join(records.columns)[:1000] or 'none at all'}. Name one with audio, image or text."
        )
    for name in (*names.values(), *captions):
        if name is not None and records.columns.count(name) > 1:
            raise ValueError(f"{table} has several columns called {name}. Rename all but one.")
    rows = _with_whole_labels([_row(record, names, captions, separator) for record in records])
    rows, merged = _one_row_per_clip(rows)
    unused = list(_unused(records, given, names, captions))
    return Content(rows, unused_columns=shortlist(unused, _MOST_UNUSED), merged=merged)


def _tables_beside(table: Path) -> str:
    """List the tables and folders beside a missing table, the most similar name first."""
    if not table.parent.is_dir():
        return f"There is no folder {table.parent.absolute()}. {_TO_NAME_ANOTHER}"
    names = sorted(
        path.name for path in table.parent.iterdir() if path.suffix.lower() in KINDS or path.is_dir()
    )
    near = difflib.get_close_matches(table.name, names, n=1)
    listed = list(dict.fromkeys([*near, *names]))
    return (
        f"{table.parent.absolute()} has {shortlist(listed) or 'no table and no folder'}. {_TO_NAME_ANOTHER}"
    )


def _caption_columns(text: str | None, given: Column, records: Records) -> list[str]:
    """Return the column of captions, or otherwise those with numbers: caption_1, caption_2 ..."""
    if text is not None or given is False:
        return [text] if text else []
    return [name for name in records.columns if _NUMBERED_CAPTION.fullmatch(name.strip().lower())]


def _unused(
    records: Records, given: Mapping[str, Column], names: Mapping[str, str | None], captions: Sequence[str]
) -> Iterator[str]:
    """Name the unused columns, with a suggestion for one that resembles a known name."""
    absent = [argument for argument, name in names.items() if name is None and given[argument] is None]
    known = [name for argument in absent for name in _KNOWN.get(argument, [argument])]
    for column in records.columns:
        if column not in names.values() and column not in captions:
            written = column.strip().lower().replace(" ", "_")
            near = difflib.get_close_matches(written, known, n=1, cutoff=_NEAR)
            misspelt = near and near[0] != written  # equal where a duration is that of the whole file
            yield f'{shown(column)} (did you mean "{near[0]}"?)' if misspelt else shown(column)


def _name(argument: str, given: Column, records: Records) -> str | None:
    """Return the name of a column, as given or found; `choose_times` finds those of times."""
    if given is False:
        return None
    if given is not None and given not in records.columns:
        raise ValueError(
            f"{argument} is {given!r}; {records.table} has no such column; it has "
            f"{', '.join(records.columns)[:1000] or 'none at all'}."
        )
    if isinstance(given, str):
        return given
    lower = {column.strip().lower(): column for column in reversed(records.columns)}
    return next((lower[name] for name in _KNOWN.get(argument, ()) if name in lower), None)


def _row(
    record: Record, names: Mapping[str, str | None], captions: Sequence[str], separator: str | None
) -> Row:
    audio, images = record.text(names["audio"]), record.texts(names["image"])
    if audio is not None and PurePath(audio).suffix.lower() in UNDECODED_AUDIO_SUFFIXES:
        record.fail(names["audio"], f"a supported kind of sound, such as .flac ({CONVERT_AUDIO}),")
    if any(PurePath(path).suffix.lower() in UNDECODED_IMAGE_SUFFIXES for path in images):
        record.fail(names["image"], f"a supported kind of image, such as .jpg ({CONVERT_IMAGE}),")
    entry = Entry(
        audio=audio,
        images=images,
        captions=tuple(dict.fromkeys(text for column in captions for text in record.captions(column))),
        labels=record.texts(names["labels"], separator),
        segment=segment_of(record, names) if audio else None,
        source=whole(record.text(names["source"]) or "") or None,
        fold=record.whole_number(names["fold_column"], hint=_NAMED_FOLDS.format(names["fold_column"])),
    )
    if entry.audio is None and not entry.images and not entry.captions:
        column = next(name for name in (names["audio"], names["image"], *captions) if name)
        record.fail(column, "a sound, an image or a text")
    group = whole(record.text(names["group"]) or "") or entry.audio or entry.name
    return Row(entry, whole(record.text(names["split_column"]) or "") or None, group, record.line)


def _one_row_per_clip(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Merge rows with captions of one clip: the same files and segment, labels, fold, split and group.

    Returns:
        The rows, in the order of the clips' first rows; and messages about clips with several rows. Rows of
        one clip that differ in labels, fold, split or group are not merged.
    """
    merged: dict[object, Row] = {}
    first_of_clip: dict[object, Row] = {}
    count, apart = 0, list[Row]()
    for row in rows:
        entry = row.entry
        if not entry.captions or not (entry.audio or entry.images):
            merged[row.line] = row
            continue
        clip = (entry.audio, entry.images, entry.segment)
        facts = (clip, entry.labels, entry.source, entry.fold, row.split, row.group)
        if facts in merged:
            known = merged[facts]
            captions = tuple(dict.fromkeys((*known.entry.captions, *entry.captions)))
            merged[facts] = known._replace(entry=known.entry._replace(captions=captions))
            count += 1
            continue
        merged[facts] = row
        if clip in first_of_clip:
            apart.append(row)
        first_of_clip.setdefault(clip, row)
    messages = []
    if count:
        clips = f"{len(merged):,} samples"
        messages.append(f"{count:,} of {len(rows):,} rows are further captions of a clip; {clips} are left.")
    if apart:
        messages.append(
            f"{len(apart):,} rows describe a clip of an earlier row with other labels or in another fold, "
            f"split or group; they stay samples of their own (first: line {apart[0].line})."
        )
    return list(merged.values()), tuple(messages)


def _with_whole_labels(rows: list[Row]) -> list[Row]:
    """Write labels as 1, 2, ... if all are whole numbers and some are written as `1.0`."""
    if not all_whole({label for row in rows for label in row.entry.labels}):
        return rows
    return [
        row._replace(entry=row.entry._replace(labels=tuple(dict.fromkeys(map(whole, row.entry.labels)))))
        for row in rows
    ]
