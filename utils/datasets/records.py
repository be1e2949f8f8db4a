"""Reading a table of any kind: CSV, TSV, JSON lines or parquet, row by row, every value checked."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from utils.datasets.table import RowError, lines_left_out, seen_lines

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
LARGEST_BYTES = 4_000_000_000
"""Of a table; AudioSet's larger one has a tenth of a billion."""
MOST_ROWS = 20_000_000

_LONGEST_TEXT = 5_000  # characters: a caption is longer than a label
# Unicode's control and format characters, halves of pairs (which JSON can have), separators of lines.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MOST_VALUES = 1_000  # of a list


@dataclass(frozen=True)
class Record:
    """One row; methods read a column, or raise a ValueError that says file, line and column."""

    table: Path
    line: int
    """Of a parquet file the row; from 1."""
    values: Mapping[str, Any]

    def text(self, column: str | None) -> str | None:
        """Text without surrounding space, on one line; None where there is none."""
        value = self._value(column)
        if value is None or isinstance(value, str):
            return self._clean(column, value or "") or None
        if isinstance(value, bool | int | float):
            return str(value)
        return self.fail(column, "text")

    def texts(self, column: str | None, separator: str | None = None) -> tuple[str, ...]:
        """Several texts, each once: a list (in CSV as JSON), or separated; without a separator one text."""
        value = self._value(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                self.fail(column, "a JSON list of texts, as it begins with [,")
        if isinstance(value, list):
            if len(value) > _MOST_VALUES or not all(isinstance(one, str) for one in value):
                self.fail(column, f"a list of at most {_MOST_VALUES:,} texts")
            parts = value
        else:
            text = self.text(column) or ""
            parts = text.split(separator) if separator else [text]
        cleaned = (self._clean(column, part) for part in parts)
        return tuple(dict.fromkeys(part for part in cleaned if part))

    def number(self, column: str | None) -> float | None:
        """A number of zero or more; None where there is none."""
        text = self.text(column)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            self.fail(column, "a number of zero or more")
        return number

    def whole_number(self, column: str | None) -> int | None:
        """An integer of zero or more; None where there is none."""
        number = self.number(column)
        if number is not None and (number != int(number) or number >= 10**9):
            self.fail(column, "a whole number of at most 9 digits")
        return None if number is None else int(number)

    def fail(self, column: str | None, expected: str) -> NoReturn:
        """Raise that a value is another than expected."""
        shown = "".join(
            mark if unicodedata.category(mark) not in _UNSEEN else "\ufffd"
            for mark in str(self._value(column) or "")[:80]
        )
        message = f'{self.table}, line {self.line}: {column} is "{shown}"; {expected} is expected.'
        raise RowError(message, line=self.line)

    def _value(self, column: str | None) -> Any:
        return None if column is None else self.values.get(column)

    def _clean(self, column: str | None, text: str) -> str:
        text = text.strip()
        if len(text) > _LONGEST_TEXT:
            self.fail(column, f"text of at most {_LONGEST_TEXT:,} characters")
        if not text.isprintable() and any(unicodedata.category(mark) in _UNSEEN for mark in text):
            self.fail(column, "text on one line, without control characters,")
        return text


@dataclass(frozen=True)
class Records:
    """The rows of a table, read anew each time they are gone through, and the names of its columns."""

    table: Path
    columns: tuple[str, ...]

    @classmethod
    def of(cls, table: Path) -> Records:
        """Look at the beginning of a table.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is no table of a kind that is read.
        """
        if not table.is_file():
            raise FileNotFoundError(f"{table}: no such table.")
        size = table.stat().st_size
        if size > LARGEST_BYTES:
            raise ValueError(f"{table} has {size:,} bytes; a table has at most {LARGEST_BYTES:,}.")
        if table.suffix.lower() not in KINDS:
            raise ValueError(f"{table} is of no kind of table that is read: {', '.join(KINDS)}.")
        if _is_json(table):  # a column may begin further down
            columns = dict.fromkeys(name for record in _read(table) for name in record.values)
            return cls(table, tuple(columns))
        return cls(table, tuple(_columns(table)))

    def __iter__(self) -> Iterator[Record]:
        left_out = lines_left_out()
        for count, record in enumerate(_read(self.table)):
            if count == MOST_ROWS:
                raise ValueError(f"{self.table} has more than {MOST_ROWS:,} rows.")
            if record.line not in left_out:
                yield record


def _is_json(table: Path) -> bool:
    return table.suffix.lower() in {".jsonl", ".ndjson"}


def _columns(table: Path) -> list[str]:
    if table.suffix.lower() == ".parquet":
        return list(_parquet(table).schema_arrow.names)
    with table.open(encoding="utf-8-sig", newline="") as file:
        try:
            return next(csv.reader(seen_lines(file, table), delimiter=_delimiter(table)), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{table} is not a table in UTF-8: {error}.") from error


def _read(table: Path) -> Iterator[Record]:
    if table.suffix.lower() == ".parquet":
        return _read_parquet(table)
    return _read_json(table) if _is_json(table) else _read_csv(table)


def _read_csv(table: Path) -> Iterator[Record]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(seen_lines(file, table), delimiter=_delimiter(table))
        try:
            for values in reader:
                line = reader.line_num
                if None in values:
                    raise RowError(
                        f"{table}, line {line}: more values than columns; put text that has a "
                        f'"{_delimiter(table)}" into quotes.'.replace("\t", "tab"),
                        line=line,
                    )
                yield Record(table, line, values)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{table} is not a table in UTF-8: {error}.") from error


def _delimiter(table: Path) -> str:
    """What separates the values: of a CSV file what its header has most of, as some programs write `;`."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(10_000)
    return max(",;\t", key=header.count)


def _read_json(table: Path) -> Iterator[Record]:
    with table.open(encoding="utf-8-sig") as file:
        try:
            for line, text in enumerate(seen_lines(file, table), start=1):
                if not text.strip():
                    continue
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise RowError(f"{table}, line {line}: not JSON ({error}).", line=line) from error
                if not isinstance(values, dict):
                    raise RowError(f"{table}, line {line}: a JSON object is expected.", line=line)
                yield Record(table, line, values)
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not a table in UTF-8: {error}.") from error


def _read_parquet(table: Path) -> Iterator[Record]:
    line = 0
    for batch in _parquet(table).iter_batches(batch_size=10_000):
        for values in batch.to_pylist():
            line += 1
            yield Record(table, line, values)


def _parquet(table: Path) -> Any:
    import pyarrow  # noqa: PLC0415 - large, and few tables are of this kind
    import pyarrow.parquet  # noqa: PLC0415

    try:
        return pyarrow.parquet.ParquetFile(table)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{table} is no parquet file: {error}.") from error
