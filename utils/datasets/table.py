"""Reading a data set's CSV table: every value is checked, and an error names the file, line and column."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT: ContextVar[frozenset[int]] = ContextVar("lines left out", default=frozenset())


class RowError(ValueError):
    """A value of a table is wrong; `line` is its line."""

    def __init__(self, message: str, *, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Row:
    """One line of a table; methods read a column or raise a ValueError that says where it is."""

    table: Path
    line: int
    values: dict[str, str | None]

    def text(self, column: str) -> str:
        """Text that is not empty, without surrounding space."""
        return (self.values[column] or "").strip() or self._fail(column, "some text")

    def file_name(self, column: str) -> str:
        """The name of a file in a folder that the layout fixes: no path, so it cannot lead elsewhere."""
        name = self.text(column)
        if name in {".", ".."} or "/" in name or "\\" in name:
            self._fail(column, "a file name without a folder")
        return name

    def whole_number(self, column: str) -> int:
        """An integer of zero or more."""
        text = self.text(column)
        if not (text.isascii() and text.isdigit()):
            self._fail(column, "a whole number")
        return int(text)

    def flag(self, column: str) -> bool:
        """True or False."""
        word = self.text(column).lower()
        if word not in {"true", "false"}:
            self._fail(column, "True or False")
        return word == "true"

    def _fail(self, column: str, expected: str) -> str:
        given = self.values[column] or ""
        message = f'{self.table}, line {self.line}: {column} is "{given}"; {expected} is expected.'
        raise RowError(message, line=self.line)


@contextmanager
def leaving_out(lines: Iterable[int]) -> Iterator[None]:
    """A block in which tables are read without these lines: those found wrong, while looking for more."""
    token = _LEFT_OUT.set(frozenset(lines))
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
        ValueError: a column is missing, or the file is not a CSV table.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or []
            missing = [column for column in columns if column not in present]
            if missing:
                raise ValueError(
                    f"{table} has no column {' and no column '.join(missing)}; "
                    f"it has {', '.join(present) or 'none at all'}."
                )
            left_out = _LEFT_OUT.get()
            for values in reader:
                if reader.line_num not in left_out:
                    yield Row(table, reader.line_num, values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is not a CSV table in UTF-8: {error}.") from error
