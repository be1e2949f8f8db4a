"""Reads tables (CSV, TSV, JSON, parquet) row by row; an error names file, line, column and value."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from model.inputs import beginning_of, describe, name_placeholder
from utils.datasets.sources.cells import Place, Record, RowError

LARGEST_BYTES = 4_000_000_000
"""Maximum size of a table, in bytes; AudioSet's larger table has 0.1 GB."""
MOST_ROWS = 20_000_000

_JSON = (".jsonl", ".ndjson", ".json")
KINDS = (".csv", ".tsv", *_JSON, ".parquet")
_LONGEST_LINE = 10_000  # characters
_MOST_BAD_LINES = 50  # with more bad lines, something else is wrong with the table
_MOST_REASONS = 3
_ONE_OBJECT = "each line is one JSON object (or the whole file, called .json, is one list of objects)."

T = TypeVar("T")


@dataclass(frozen=True)
class Records:
    """The column names and the rows of a table; every iteration reads the rows again."""

    table: Path
    columns: tuple[str, ...]

    def __iter__(self) -> Iterator[Record]:
        """Read the rows, except blank lines and those that `build_without_bad_lines` leaves out."""
        for count, record in enumerate(_read(self.table)):
            if count == MOST_ROWS:
                raise ValueError(f"{self.table} has more than {MOST_ROWS:,} rows.")
            yield record


def read_table(table: Path, columns: Sequence[str] = ()) -> Records:
    """Open a table that has a header with these columns, and perhaps others.

    Raises:
        ValueError: The file is not a supported table, is too large, or lacks a column.
        OSError: The file cannot be read.
    """
    refuse_no_table(table)
    kind = table.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{table} is not a supported kind of table: {', '.join(KINDS)}.")
    if kind == ".parquet":
        present = list(_parquet(table).schema_arrow.names)
    elif kind in _JSON:  # later rows may have other columns
        present = list(dict.fromkeys(name for record in _read(table) for name in record.values))
    else:
        with open_lines(table) as lines:
            present = next(csv.reader(lines, delimiter=_delimiter(table)), [])
    missing = [column for column in columns if column not in present]
    if missing:
        has = ", ".join(present)[:1000] or "none at all"
        raise ValueError(f"{table} has no column {' and no column '.join(missing)}; it has {has}.")
    return Records(table, tuple(present))


def refuse_no_table(table: Path) -> None:
    """Raise ValueError for a web page, a pointer, an empty file, or a file that is too large."""
    if (known := name_placeholder(beginning_of(table))) is not None:
        raise ValueError(f"{table} is {known}")
    size = table.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{table} has {size:,} bytes; a table has at most {LARGEST_BYTES:,}.")


@contextmanager
def open_lines(table: Path) -> Iterator[Iterator[str]]:
    """Open a table and read its lines; long lines, other encodings and malformed CSV raise ValueError."""

    def lines(file: TextIO) -> Iterator[str]:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"{table}, line {number} has more than {_LONGEST_LINE:,} characters.")
            yield line

    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            yield lines(file)
    except UnicodeDecodeError as error:
        raise _not_utf8(table, error) from error
    except csv.Error as error:
        raise ValueError(f"{table} is not a CSV table: {error}.") from error


def _not_utf8(table: Path, error: UnicodeDecodeError) -> ValueError:
    is_utf16 = beginning_of(table).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return ValueError(
        f"{table} is not in UTF-8 (byte {error.object[error.start]:#04x}). Save it as UTF-8, for example "
        f"with `iconv -f {'utf-16' if is_utf16 else 'latin1'} -t utf-8 {table.name} > new{table.suffix}`."
    )


_LEFT_OUT: ContextVar[frozenset[Place]] = ContextVar("lines left out", default=frozenset())


def lines_left_out(table: Path) -> frozenset[int]:
    """Return the lines of a table that `build_without_bad_lines` leaves out."""
    return frozenset(place.line for place in _LEFT_OUT.get() if place.table == table)


def build_without_bad_lines(build: Callable[[], T]) -> tuple[T, list[RowError]]:
    """Build a data set without the lines of its tables that cannot be read, and return their errors.

    Raises:
        ValueError: There are too many bad lines, or no data set without them; the message has the reasons.
    """
    bad: dict[Place, RowError] = {}
    while True:
        token = _LEFT_OUT.set(frozenset(bad))
        try:
            return build(), list(bad.values())
        except (OSError, ValueError) as error:
            if isinstance(error, RowError) and error.place not in bad and len(bad) < _MOST_BAD_LINES:
                bad[error.place] = error
            elif not bad:
                raise
            else:
                reasons: dict[str, str] = {}
                for one in bad.values():
                    reasons.setdefault(one.reason, str(one))
                count = f"{len(bad)} line{'s' * (len(bad) != 1)}"
                more = " and more" if isinstance(error, RowError) else ""
                said = " ".join([*reasons.values()][:_MOST_REASONS])
                raise ValueError(f"{said} {count}{more} of the table cannot be read.") from error
        finally:
            _LEFT_OUT.reset(token)


def _read(table: Path) -> Iterator[Record]:
    kind, left_out = table.suffix.lower(), lines_left_out(table)
    if kind == ".parquet":
        rows: Iterator[tuple[int, Any]] = enumerate(
            (row for batch in _parquet(table).iter_batches(batch_size=10_000) for row in batch.to_pylist()),
            start=1,
        )
        return (Record(table, line, values) for line, values in rows if line not in left_out)
    return _read_json(table, left_out) if kind in _JSON else _read_csv(table, left_out)


def _read_csv(table: Path, left_out: Collection[int]) -> Iterator[Record]:
    delimiter = _delimiter(table)
    raw: list[str] = []  # lines of the current row

    def kept(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            raw.append(line)
            yield line

    with open_lines(table) as lines:
        reader = csv.DictReader(kept(lines), delimiter=delimiter)
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


def _check_quotes(place: Place, lines: list[str], delimiter: str) -> None:
    """Raise an error if an unclosed quote has joined several lines into one row."""
    if len(lines) > 1:
        try:
            list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error as error:
            remedy = 'close the quote; a quote inside of quoted text is written twice, as "".'
            raise RowError(place, f"{len(lines)} lines are one row ({error})", remedy) from error


def _delimiter(table: Path) -> str:
    """Return the separator between values; for CSV, the most frequent candidate in the header."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(_LONGEST_LINE)
    return max(",;\t", key=header.count) if any(mark in header for mark in ",;\t") else "|"


def _read_json(table: Path, left_out: Collection[int]) -> Iterator[Record]:
    head = beginning_of(table).removeprefix(codecs.BOM_UTF8).lstrip()
    is_list = table.suffix.lower() == ".json" and head.startswith(b"[")
    expected = "the list has one JSON object for each row." if is_list else _ONE_OBJECT
    for line, values in _json_list(table) if is_list else _json_lines(table, left_out):
        if line not in left_out:
            if not isinstance(values, dict):
                raise RowError(Place(table, line), f"JSON, but {describe(values)}", expected)
            yield Record(table, line, values)


def _json_lines(table: Path, left_out: Collection[int]) -> Iterator[tuple[int, Any]]:
    with open_lines(table) as lines:
        for line, text in enumerate(lines, start=1):
            if text.strip() and line not in left_out:
                try:
                    yield line, json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise RowError(Place(table, line), f"not JSON ({error})", _ONE_OBJECT) from error


def _json_list(table: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(json.loads(table.read_text(encoding="utf-8-sig")), start=1)
    except UnicodeDecodeError as error:
        raise _not_utf8(table, error) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{table} is not JSON ({error}).") from error


def _parquet(table: Path) -> Any:
    import pyarrow  # noqa: PLC0415 - large, and few tables are of this kind
    import pyarrow.parquet  # noqa: PLC0415

    try:
        return pyarrow.parquet.ParquetFile(table)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{table} is not a parquet file: {str(error).rstrip('.')}.") from error
