"""Segments of sound files from the time columns of a user's table, found by their names.

| columns              | the part                                                             |
|----------------------|----------------------------------------------------------------------|
| start, end           | from second to second of the file                                    |
| start, duration      | so long, from the start                                              |
| start                | from there to the end of the file                                    |
| offset, ...          | `offset` is the start, as in manifests of NeMo and lhotse            |
| onset, offset        | `offset` is the end, as in tables of DCASE and sed_eval              |
| duration             | all of the file: it says how long that is                            |
| start, offset        | an error asks which of them is what                                  |
| end                  | an error asks which column is the start                              |
| start, end, duration | an error asks, unless end and duration agree                         |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from model.sounds.decoding import Segment
from utils.datasets.records import Record, Records

Column: TypeAlias = str | bool | None
"""Name of a column; None: it is found by its name; False: there is none."""

START = ("start", "start_seconds", "start_time", "start_sec", "start_s", "begin", "begin_time", "onset")
END = ("end", "end_seconds", "end_time", "end_sec", "end_s")
DURATION = ("duration", "duration_seconds", "duration_sec", "duration_s")

_AGREE = 0.05  # seconds that rounded times may differ by


def choose_times(
    found: Mapping[str, str | None], given: Mapping[str, Column], records: Records
) -> dict[str, str | None]:
    """Choose the columns "start", "end" and "duration", so that they say one thing.

    Args:
        found: names of columns by argument, as they are given or found.
        given: the arguments.
        records: the table.

    Raises:
        ValueError: what the columns mean is not known; the message says which argument settles it.
    """
    start, end, duration = found["start"], found["end"], found["duration"]
    offset = next((name for name in records.columns if name.strip().lower() == "offset"), None)
    if offset is not None and offset not in (start, end, duration):
        if start is None and given["start"] is None:
            start = offset
        elif start is not None and end is None and given["end"] is None:
            if start.strip().lower() != "onset":
                raise ValueError(
                    f"{records.table} has the columns {start} and {offset}. If {offset} is the end, set "
                    f'"end": "{offset}"; if it is the start, "start": "{offset}"; if neither, "end": false.'
                )
            end = offset
    if start is None and end is not None and given["start"] is None and given["end"] is None:
        raise ValueError(
            f"{records.table} has the column {end}, and none for the start that is known by its name; it "
            f'has {", ".join(records.columns)[:1000]}. Name it by "start"; with "end": false files are '
            'whole, with "start": false parts begin with the file.'
        )
    if start is None and given["duration"] is None:
        duration = None
    return {"start": start, "end": end, "duration": duration}


def segment_of(record: Record, names: Mapping[str, str | None]) -> Segment | None:
    """Read which part of its file a row is; None: all of it."""
    start, end = record.number(names["start"]), record.number(names["end"])
    duration = record.number(names["duration"])
    if start is None and end is None and (duration is None or names["start"] is not None):
        return None
    begin = 0.0 if start is None else start
    if duration is not None:
        if duration == 0:
            record.fail(names["duration"], "a number of seconds above zero")
        if end is not None and abs(end - begin - duration) > _AGREE:
            record.fail(
                names["duration"],
                f"{end - begin:g}, from {begin:g} to {end:g} s (where the column is of something else, such "
                'as the length of the file, set "duration": false),',
            )
        end = begin + duration if end is None else end
    if end is not None and end <= begin:
        record.fail(names["end"] or names["duration"], "a number of seconds after the start")
    return (begin, end)
