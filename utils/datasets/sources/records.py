"""Reads tables of any kind, CSV, TSV, JSON or parquet, row by row, and checks every value."""

from __future__ import annotations

import ast
import csv
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from model.inputs import describe
from utils.datasets.sources.cells import is_empty, is_no_number, is_plain, one_line, shown, trimmed
from utils.datasets.sources.table import (
    Place,
    RowError,
    lines_left_out,
    refuse_placeholder,
    seen_lines,
    unreadable_table,
)

_JSON = (".jsonl", ".ndjson", ".json")
KINDS = (".csv", ".tsv", *_JSON, ".parquet")
LARGEST_BYTES = 4_000_000_000
"""Of a table; AudioSet's larger one has a tenth of a billion."""
MOST_ROWS = 20_000_000

_LONGEST_TEXT = 5_000  # characters: a caption is longer than a label
_MOST_VALUES = 1_000  # of a list
_LIKE_A_LIST = re.compile(
    r"""\s*(\[\s*(['"]|[^\]]*$|.*,.*\]\s*$|nan\s*\])|[({]\s*(['"]).*\3\s*,?\s*[)}]\s*$)""", re.DOTALL
)
_LISTED = 5  # tables
_TO_NAME_ANOTHER = "Name another table with --Dataset.args.table FILE."
_ONE_OBJECT = "each line is one JSON object (or the whole file, called .json, is one list of objects)."


@dataclass(frozen=True)
class Record:
    """One row; methods read a column, or raise a ValueError that says file, line and column."""

    table: Path
    line: int
    """From 1; of a parquet file, and of a JSON list, the row."""
    values: Mapping[str, Any]

    def text(self, column: str | None) -> str | None:
        """Text on one line, without surrounding space; None where the cell is empty."""
        return self._text(column, self._value(column)) or None

    def caption(self, column: str | None) -> str | None:
        """Text whose lines, if it has several, are joined by spaces; None where the cell is empty."""
        value = self._value(column)
        return self._text(column, one_line(value) if isinstance(value, str) else value) or None

    def texts(self, column: str | None, separator: str | None = None) -> tuple[str, ...]:
        """Several texts, each once: a list, in CSV as JSON or Python writes it, or separated, or one text.

        Text such as `[laughter]` or `[1].jpg` is no list; `[1]` is one.
        """
        value = self._value(column)
        if isinstance(value, str) and value.lstrip().startswith(("[", "(", "{")):
            listed = _list_of(value.strip())
            if listed is None and _LIKE_A_LIST.match(value):
                self.fail(
                    column,
                    'a JSON list of texts such as ["dog", "rain"] (or ["[x"], for a text like this one)',
                )
            value = value if listed is None else listed
        if isinstance(value, list):
            if len(value) > _MOST_VALUES:
                self.fail(column, f"a list of at most {_MOST_VALUES:,} texts")
            parts = value
        else:
            text = self._text(column, value)
            parts = text.split(separator) if separator else [text]
        cleaned = (self._text(column, part) for part in parts)
        return tuple(dict.fromkeys(part for part in cleaned if part))

    def number(self, column: str | None) -> float | None:
        """A number of zero or more; None where the cell is empty."""
        text = self.text(column)
        if text is None or is_no_number(text):
            return None
        number = _number(text)
        if not 0 <= number < math.inf:
            self.fail(column, "a number of zero or more")
        return number

    def whole_number(self, column: str | None, *, hint: str = "") -> int | None:
        """An integer of zero or more, which may be written as `1.0`; None where the cell is empty."""
        text = self.text(column)
        if text is None or is_no_number(text):
            return None
        number = _number(text)
        if not 0 <= number < 10**9 or number != int(number):
            self.fail(column, f"a whole number of at most 9 digits{hint}")
        return int(number)

    def fail(self, column: str | None, expected: str) -> NoReturn:
        """Raise that a value is another than expected."""
        found = f'{column} is "{shown(self._value(column))}"'
        raise RowError(Place(self.table, self.line), found, f"{expected} is expected.")

    def _value(self, column: str | None) -> Any:
        value = None if column is None else self.values.get(column)
        if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
            return value["path"]  # a file of the Hugging Face hub whose content lies elsewhere
        return value

    def _text(self, column: str | None, value: object) -> str:
        """Text of one value, checked; "" where it is empty."""
        if is_empty(value):
            return ""
        if isinstance(value, bytes | Mapping):
            self.fail(
                column,
                "the path of a file (not its content, as tables of the Hugging Face hub hold: write each "
                "content to a file, and its path into the table)",
            )
        if not isinstance(value, str | bool | int | float) or value in (math.inf, -math.inf):
            self.fail(column, "text")
        text = trimmed(str(value))
        if len(text) > _LONGEST_TEXT:
            self.fail(column, f"text of at most {_LONGEST_TEXT:,} characters")
        if not is_plain(text):
            self.fail(column, "text on one line, without control characters,")
        return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _list_of(text: str) -> list[Any] | None:
    """Read a list as JSON writes it, or a list or tuple as Python does; None: it is none of these."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if repr(value) != text:  # such as ['a' 'b'], two texts of numpy and one of Python
            return None
    return list(value) if isinstance(value, list | tuple) else None


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
            raise FileNotFoundError(f"{table}: no such table. {_tables_beside(table)}")
        refuse_placeholder(table)
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
        for count, record in enumerate(_read(self.table)):
            if count == MOST_ROWS:
                raise ValueError(f"{self.table} has more than {MOST_ROWS:,} rows.")
            yield record


def _tables_beside(table: Path) -> str:
    """Say which tables, or folders, are where a table is not."""
    if not table.parent.is_dir():
        return f"There is no folder {table.parent.absolute()}. {_TO_NAME_ANOTHER}"
    names = sorted(path.name for path in table.parent.iterdir() if path.suffix.lower() in KINDS)
    near = difflib.get_close_matches(table.name, names, n=1)
    listed = [*near, *(name for name in names if name not in near)]
    more = f" and {len(listed) - _LISTED} more" * (len(listed) > _LISTED)
    return (
        f"{table.parent.absolute()} has {', '.join(listed[:_LISTED]) or 'no table'}{more}. {_TO_NAME_ANOTHER}"
    )


def _is_json(table: Path) -> bool:
    return table.suffix.lower() in _JSON


def _columns(table: Path) -> list[str]:
    if table.suffix.lower() == ".parquet":
        return list(_parquet(table).schema_arrow.names)
    with table.open(encoding="utf-8-sig", newline="") as file:
        try:
            return next(csv.reader(seen_lines(file, table), delimiter=_delimiter(table)), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise unreadable_table(table, error) from error


def _read(table: Path) -> Iterator[Record]:
    if table.suffix.lower() == ".parquet":
        return _read_parquet(table)
    return _read_json(table) if _is_json(table) else _read_csv(table)


def _read_csv(table: Path) -> Iterator[Record]:
    left_out, delimiter = lines_left_out(table), _delimiter(table)
    raw: list[str] = []  # lines of the row that is being read

    def lines(file: TextIO) -> Iterator[str]:
        for line in seen_lines(file, table):
            raw.append(line)
            yield line

    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(lines(file), delimiter=delimiter)
        try:
            _ = reader.fieldnames  # reads the header
            raw.clear()
            for values in reader:
                place = Place(table, reader.line_num)
                if place.line not in left_out:
                    if None in values:
                        quoted = f'put text that has a "{delimiter}" into quotes.'.replace("\t", "tab")
                        raise RowError(place, "more values than columns", quoted)
                    _check_quotes(place, raw, delimiter)
                    yield Record(table, place.line, values)
                raw.clear()
        except (UnicodeDecodeError, csv.Error) as error:
            raise unreadable_table(table, error) from error


def _check_quotes(place: Place, lines: list[str], delimiter: str) -> None:
    """Raise if a quote that is not closed has made several lines one row."""
    if len(lines) > 1:
        try:
            list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error as error:
            remedy = 'close the quote; a quote inside of quoted text is written twice, as "".'
            raise RowError(place, f"{len(lines)} lines are one row ({error})", remedy) from error


def _delimiter(table: Path) -> str:
    """What separates the values: of a CSV file what its header has most of, as some programs write `;`."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(10_000)
    return max(",;\t", key=header.count) if any(mark in header for mark in ",;\t") else "|"


def _read_json(table: Path) -> Iterator[Record]:
    with table.open(encoding="utf-8-sig") as file:
        try:
            is_list = table.suffix.lower() == ".json" and file.read(1000).lstrip().startswith("[")
            file.seek(0)
            for line, values in _json_list(file, table) if is_list else _json_lines(file, table):
                if not isinstance(values, dict):
                    expected = "the list has one JSON object for each row." if is_list else _ONE_OBJECT
                    raise RowError(Place(table, line), f"JSON, but {describe(values)}", expected)
                yield Record(table, line, values)
        except UnicodeDecodeError as error:
            raise unreadable_table(table, error) from error


def _json_lines(file: TextIO, table: Path) -> Iterator[tuple[int, Any]]:
    left_out = lines_left_out(table)
    for line, text in enumerate(seen_lines(file, table), start=1):
        if text.strip() and line not in left_out:
            try:
                yield line, json.loads(text)
            except (ValueError, RecursionError) as error:
                raise RowError(Place(table, line), f"not JSON ({error})", _ONE_OBJECT) from error


def _json_list(file: TextIO, table: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{table} is not JSON ({error}).") from error
    left_out = lines_left_out(table)
    yield from ((row, values) for row, values in enumerate(rows, start=1) if row not in left_out)


def _read_parquet(table: Path) -> Iterator[Record]:
    left_out = lines_left_out(table)
    line = 0
    for batch in _parquet(table).iter_batches(batch_size=10_000):
        for values in batch.to_pylist():
            line += 1
            if line not in left_out:
                yield Record(table, line, values)


def _parquet(table: Path) -> Any:
    import pyarrow  # noqa: PLC0415 - large, and few tables are of this kind
    import pyarrow.parquet  # noqa: PLC0415

    try:
        return pyarrow.parquet.ParquetFile(table)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{table} is not a parquet file: {str(error).rstrip('.')}.") from error
