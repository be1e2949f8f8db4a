"""Reading a data set's CSV table: every value is checked, and an error names the file, line and column."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from model.file_kinds import beginning_of, name_placeholder
from utils.datasets.sources.cells import is_empty, is_plain, shown, trimmed, whole

LARGEST_BYTES = 100_000_000
"""Of a table; UrbanSound8K's has 0.8 million."""
MOST_ROWS = 1_000_000
LONGEST_LINE = 10_000
"""Characters, in a field as well."""

_LONGEST_TEXT = 500
_LONGEST_NAME = 255  # bytes that file systems take
_MOST_DIGITS = 9


class Place(NamedTuple):
    """A line of a table."""

    table: Path
    line: int


_LEFT_OUT: ContextVar[frozenset[Place]] = ContextVar("lines left out", default=frozenset())


class RowError(ValueError):
    """A line of a table is wrong.

    Attributes:
        place: the line.
        reason: what is expected, or what to do; the same for all lines with this fault.
    """

    def __init__(self, place: Place, found: str, reason: str) -> None:
        super().__init__(f"{place.table}, line {place.line}: {found}; {reason}")
        self.place = place
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """One line of a table; methods read a column or raise a ValueError that says where it is."""

    table: Path
    line: int
    values: dict[str, str | None]

    def text(self, column: str) -> str:
        """Text that is not empty, on one line, without surrounding space."""
        value = self.values[column] or ""
        text = trimmed(value)
        if not text or is_empty(value):
            self._fail(column, "some text")
        if len(text) > _LONGEST_TEXT:
            self._fail(column, f"text of at most {_LONGEST_TEXT} characters")
        if not is_plain(text):
            self._fail(column, "text on one line, without control characters,")
        return text

    def file_name(self, column: str) -> str:
        """The name of a file in a folder that the layout fixes: no path, so it cannot lead elsewhere."""
        name = self.text(column)
        if name in {".", ".."} or "/" in name or "\\" in name:
            self._fail(column, "a file name without a folder")
        if len(name.encode()) > _LONGEST_NAME:
            self._fail(column, f"a file name of at most {_LONGEST_NAME} bytes")
        return name

    def whole_number(self, column: str) -> int:
        """An integer of zero or more; `1.0` is 1."""
        text = whole(self.text(column))
        if not (text.isascii() and text.isdigit()):
            self._fail(column, "a whole number")
        if len(text) > _MOST_DIGITS:
            self._fail(column, f"a number of at most {_MOST_DIGITS} digits")
        return int(text)

    def flag(self, column: str) -> bool:
        """True or False."""
        word = self.text(column).lower()
        if word not in {"true", "false"}:
            self._fail(column, "True or False")
        return word == "true"

    def _fail(self, column: str, expected: str) -> NoReturn:
        found = f'{column} is "{shown(self.values[column])}"'
        raise RowError(Place(self.table, self.line), found, f"{expected} is expected.")


@contextmanager
def leaving_out(places: Iterable[Place]) -> Iterator[None]:
    """A block in which tables are read without these lines: those found wrong, while looking for more."""
    token = _LEFT_OUT.set(frozenset(places))
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def read_rows(table: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a CSV file with a header, UTF-8.

    Args:
        table: the file.
        columns: the columns that must be there; others may be.

    Yields:
        The rows in the order of the file; blank lines are left out.

    Raises:
        ValueError: a column is missing, the file is not a CSV table, or it is too large to be one of clips.
    """
    refuse_placeholder(table)
    size = table.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{table} has {size:,} bytes; a table of clips has at most {LARGEST_BYTES:,}.")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(seen_lines(file, table))
            present = reader.fieldnames or []
            missing = [column for column in columns if column not in present]
            if missing:
                raise ValueError(
                    f"{table} has no column {' and no column '.join(missing)}; "
                    f"it has {', '.join(present)[:1000] or 'none at all'}."
                )
            left_out = lines_left_out(table)
            for count, values in enumerate(reader):
                if count == MOST_ROWS:
                    raise ValueError(f"{table} has more than {MOST_ROWS:,} rows.")
                if reader.line_num not in left_out:
                    yield Row(table, reader.line_num, {column: values[column] for column in columns})
    except (UnicodeDecodeError, csv.Error) as error:
        raise unreadable_table(table, error) from error


def refuse_placeholder(table: Path) -> None:
    """Raise a ValueError if a web page, a pointer or nothing lies where a table should be."""
    if (known := name_placeholder(beginning_of(table))) is not None:
        raise ValueError(f"{table} is {known}")


def unreadable_table(table: Path, error: UnicodeDecodeError | csv.Error) -> ValueError:
    """Say that a table is in another encoding, or not CSV, and what to do."""
    if not isinstance(error, UnicodeDecodeError):
        return ValueError(f"{table} is not a CSV table: {error}.")
    is_utf16 = beginning_of(table).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "latin1"
    return ValueError(
        f"{table} is not in UTF-8 (byte {error.object[error.start]:#04x}). Save it as UTF-8, as by "
        f"`iconv -f {encoding} -t utf-8 {table.name} > new{table.suffix}`."
    )


def lines_left_out(table: Path) -> frozenset[int]:
    """Lines that a block of `leaving_out` leaves out of a table, whatever they hold."""
    return frozenset(place.line for place in _LEFT_OUT.get() if place.table == table)


def seen_lines(file: TextIO, table: Path) -> Iterator[str]:
    """Give the lines of a file, none of which may be longer than any of a table."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{table}, line {number} has more than {LONGEST_LINE:,} characters.")
        yield line
