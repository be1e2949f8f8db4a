"""Finds the time columns of a user's table by name, and reads segments of sound files from them.

| columns              | segment                                                              |
|----------------------|----------------------------------------------------------------------|
| start, end           | from start to end                                                    |
| start, duration      | `duration` long, from the start                                      |
| start                | from the start to the end of the file                                |
| offset, ...          | `offset` is the start, as in manifests of NeMo and lhotse            |
| onset, offset        | `offset` is the end, as in tables of DCASE and sed_eval              |
| duration             | the whole file                                                       |
| start, offset        | an error asks for the meaning of `offset`                            |
| end                  | an error asks for the start                                          |
| start, end, duration | an error, unless end and duration agree                              |

Names are split into words and matched regardless of case. Examples: `Begin Time (s)`, `startTime`, `t_start`,
`tmin`, `stop`, `end_ms` (milliseconds). If several columns hold the same time, the one in seconds is used.

An error asks about other numeric columns whose names suggest a start or an end (`call_start`, `from`, `time`
with a duration), another unit (`start_sample`, `end_frame`), or the same time as another column. Other names
(`start_date`, `begin_file`, `timestamp`) are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Literal, TypeAlias

from model.sounds.decoding import Segment
from utils.datasets.sources.cells import Record, is_empty
from utils.datasets.sources.tables import Records

Column: TypeAlias = str | bool | None
"""Name of a column, None to find it by the known names, or False to use no column."""
Role: TypeAlias = Literal["start", "end", "duration", "offset"]

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("start", "starts", "begin", "begins", "beginning", "onset", "tmin", "from"), "start"),
    **dict.fromkeys(("end", "ends", "stop", "stops", "finish", "tmax", "to"), "end"),
    **dict.fromkeys(("duration", "dur", "length", "len", "delta"), "duration"),  # Delta Time (s): Raven
    "offset": "offset",
}
_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 1000),
}
_OTHER_UNITS = frozenset(
    """
    sample samples samp frame frames index idx min mins minute minutes hour hours us ns byte bytes
    """.split()  # noqa: SIM905 - one a line would fill a page
)
_NEUTRAL_WORDS = frozenset(
    {"time", "times", "at", "t", "segment", "seg", "clip", "event", *_UNITS, *_OTHER_UNITS}
)
_UNRELATED_WORDS = frozenset(
    """
    date datetime clock day month year freq frequency hz khz lat lon latitude longitude id label file path
    page row column line char token audio recording video track total text caption
    """.split()  # noqa: SIM905
)
_COMPOUND = re.compile(r"\b(start|begin|onset|offset|end|stop)(?=(?:time|times|secs?|seconds?|ms)\b)")
_T_MIN = re.compile(r"\bt(?:ime)? (min|max)\b")
_TIME = re.compile(r"[\d.:,]+")
_ARGUMENTS: tuple[Role, ...] = ("start", "end", "duration")
_ROWS_SEARCHED = 1000  # number of rows to search for a value of each column
_TOLERANCE = 0.05  # maximum difference between rounded times, in seconds


def choose_times(given: Mapping[str, Column], records: Records) -> dict[str, str | None]:
    """Choose the columns "start", "end" and "duration"; `given` are the arguments that name columns.

    Raises:
        ValueError: The meaning of the columns is unclear; the message names the argument that settles it.
    """
    for role in _ARGUMENTS:
        column = given[role]
        if isinstance(column, str) and not _per_second(column):
            raise ValueError(
                f'{records.table}: "{role}" names the column {column}, whose unit is not seconds or '
                f"milliseconds. {_other_column(role)}"
            )
    plain, unsure = _by_role(given, records)
    start, end, duration = (_chosen(given[role], plain[role]) for role in _ARGUMENTS)
    offset = _chosen(None, plain["offset"])
    if offset is not None:
        if start is None and given["start"] is None and not unsure["start"]:
            start = offset
        elif start is not None and end is None and given["end"] is None and not unsure["end"]:
            if "onset" not in _words(start):
                raise ValueError(
                    f"{records.table} has the columns {start} and {offset}. If {offset} is the end, set "
                    f'"end": "{offset}"; if it is the start, "start": "{offset}"; if neither, "end": false.'
                )
            end = offset
    asked = {
        "start": [*unsure["start"], *unsure["offset"]] if start is None else [],
        "end": unsure["end"] if end is None else [],
        "duration": unsure["duration"] if start is not None and end is None and duration is None else [],
    }
    if questions := [
        _question(columns, role) for role, columns in asked.items() if columns and given[role] is None
    ]:
        raise ValueError(f"{records.table}: {' '.join(questions)}")
    if start is None and end is not None and given["start"] is None and given["end"] is None:
        raise ValueError(
            f"{records.table} has the end column {end}, but no recognised start column. Its columns are "
            f'{", ".join(records.columns)[:1000]}. Name the start column with "start", or set "end": false '
            'to use whole files, or "start": false if segments begin at the start of the file.'
        )
    if start is None and given["duration"] is None:
        duration = None
    return {"start": start, "end": end, "duration": duration}


def segment_of(record: Record, names: Mapping[str, str | None]) -> Segment | None:
    """Return the segment of the sound file that a row selects, in seconds; None for the whole file."""
    start, end, duration = (_seconds(record, names[role]) for role in _ARGUMENTS)
    if start is None and end is None and duration is None:
        return None
    begin = 0.0 if start is None else start
    if (column := names["duration"]) is not None and duration is not None:
        if duration == 0:
            record.fail(column, f"a number of {_unit(column)} above zero")
        if end is not None and abs(end - begin - duration) > _TOLERANCE:
            record.fail(
                column,
                f"{(end - begin) * _per_second(column):g}, from {begin:g} to {end:g} s (if the column holds "
                'something else, such as the length of the file, set "duration": false),',
            )
        end = begin + duration if end is None else end
    if end is not None and end <= begin:
        column = names["end"] or names["duration"]
        record.fail(column, f"a time in {_unit(column)} later than the start")
    return (begin, end)


def _seconds(record: Record, column: str | None) -> float | None:
    number = record.number(column)
    return None if number is None or column is None else number / _per_second(column)


def _by_role(
    given: Mapping[str, Column], records: Records
) -> tuple[dict[Role, list[str]], dict[Role, list[str]]]:
    """Sort the columns that no argument names into those with a plain meaning, and those to ask about."""
    plain: dict[Role, list[str]] = {role: [] for role in ("start", "end", "duration", "offset")}
    unsure: dict[Role, list[str]] = {role: [] for role in plain}
    for column in records.columns:
        meaning = _meaning(column)
        if meaning is not None and column not in given.values():
            role, is_plain = meaning
            (plain if is_plain else unsure)[role].append(column)
    if plain["duration"] and not plain["start"]:
        unsure["start"] += [name for name in records.columns if set(_words(name)) - _UNITS.keys() == {"time"}]
    numbers = _with_numbers(records, {column for columns in unsure.values() for column in columns})
    for role, columns in plain.items():
        columns[:] = [column for column in columns if _per_second(column) == 1] or columns
        unsure[role] = columns if len(columns) > 1 else [name for name in unsure[role] if name in numbers]
    return plain, unsure


def _chosen(given: Column, found: Sequence[str]) -> str | None:
    """Return the column that an argument names, or else the only column found."""
    if given is None and len(found) == 1:
        return found[0]
    return given if isinstance(given, str) else None


def _question(columns: Sequence[str], role: str) -> str:
    """Return the question about columns that may have a role."""
    questions = []
    if other_units := [column for column in columns if not _per_second(column)]:
        questions.append(
            f"{' or '.join(other_units)} may hold the {role} of the segment, but not in seconds or "
            f"milliseconds. {_other_column(role)}"
        )
    if readable := [column for column in columns if _per_second(column)]:
        questions.append(
            f"{' or '.join(readable)} may hold the {role} of the segment: "
            + (
                f'if so, set "{role}": "{readable[0]}"; if not, "{role}": false.'
                if len(readable) == 1
                else f'set "{role}" to the column that does, or to false if none does.'
            )
        )
    return " ".join(questions)


def _other_column(role: str) -> str:
    return f'Add a column with the {role} in seconds and name it with "{role}", or set "{role}": false.'


@cache
def _words(column: str) -> tuple[str, ...]:
    """Split the name of a column into lower-case words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower().replace("_", " ")
    return tuple(re.findall(r"[a-z]+", _T_MIN.sub(r"t\1", _COMPOUND.sub(r"\1 ", apart))))


def _per_second(column: str) -> int:
    """Return the number of a column's units per second, judged by its name; 0 if not in s or ms."""
    words = _words(column)
    known = next((_UNITS[word] for word in words if word in _UNITS), None)
    return int(_OTHER_UNITS.isdisjoint(words)) if known is None else known


def _unit(column: str | None) -> str:
    return "milliseconds" if column and _per_second(column) == 1000 else "seconds"


def _meaning(column: str) -> tuple[Role, bool] | None:
    """Return the role that a name suggests, and whether the role is unambiguous; None for other names."""
    words = set(_words(column))
    if len(words & _ROLES.keys()) > 1:
        words.discard("offset")  # start_offset
    if words - _UNITS.keys() == {"file", "offset"}:  # in Raven's tables of several files
        return "start", True
    named = words & _ROLES.keys()
    if len(named) != 1:
        return None
    role, others = _ROLES[min(named)], words - named
    if others <= _NEUTRAL_WORDS and not (role == "duration" and "clip" in others):
        is_plain = _per_second(column) > 0 and bool(others or not named & {"from", "to", "length", "len"})
        return role, is_plain
    if role == "offset" or named & {"from", "to"} or others & _UNRELATED_WORDS:
        return None
    return role, False


def _with_numbers(records: Records, columns: set[str]) -> set[str]:
    """Find the columns whose first value is a number, or a time such as 0:30."""
    first: dict[str, str] = {}
    for record in islice(records, _ROWS_SEARCHED if columns else 0):
        for column in columns - first.keys():
            if not is_empty(value := record.values.get(column)) and str(value).strip():
                first[column] = str(value).strip()
        if len(first) == len(columns):
            break
    return {column for column, value in first.items() if _TIME.fullmatch(value)}
