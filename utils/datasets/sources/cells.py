"""Rows of tables: rules for empty cells and invalid values, and their representation in errors."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from model.storage.walking import is_plain

_EMPTY = frozenset(
    """
    nan NaN -nan -NaN <NA> #N/A #NA N/A n/a NULL null \\N 1.#QNAN -1.#QNAN 1.#IND -1.#IND
    """.split()  # noqa: SIM905
)
"""Missing values as programs write them: those of pandas except `NA` and `None`, which may be words; MySQL's
`\\N`."""
_NO_NUMBER = _EMPTY | {"NA", "NaT", "None", "none"}
_WHOLE = re.compile(r"(-?\d+)\.0+", re.ASCII)
_LINE_BREAK = re.compile("\\s*[\t\n\v\f\r\x85\u2028\u2029]\\s*")
_LIKE_A_LIST = re.compile(
    r"""\s*(\[\s*(['"]|[^\]]*$|.*,.*\]\s*$|nan\s*\])|[({]\s*(['"]).*\3\s*,?\s*[)}]\s*$)""", re.DOTALL
)
_QUOTED_LIST = re.compile(r"""\s*\[\s*['"]""")
_LONGEST_TEXT = 5_000  # characters
_LONGEST_NAME = 255  # bytes, the limit of file systems
_MOST_VALUES = 1_000  # maximum length of a list


class Place(NamedTuple):
    """A line of a table."""

    table: Path
    line: int


class RowError(ValueError):
    """A line of a table is invalid; `reason` is the expectation or remedy, the same for all such faults."""

    def __init__(self, place: Place, found: str, reason: str) -> None:
        super().__init__(f"{place.table}, line {place.line}: {found}; {reason}")
        self.place = place
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """A row; its methods read a column, or raise an error that names file, line, column and value."""

    table: Path
    line: int
    """Line number, from 1; in parquet files and JSON lists, the number of the row."""
    values: Mapping[str, Any]

    def text(self, column: str | None) -> str | None:
        """Return text on one line, stripped; None for an empty cell."""
        return self._text(column, self._value(column)) or None

    def required(self, column: str) -> str:
        """Return text on one line; an empty cell is an error."""
        return self.text(column) or self.fail(column, "some text")

    def file_name(self, column: str) -> str:
        """Return a file name without a folder, which the data set's layout defines; a path is an error."""
        name = self.required(column)
        if name in {".", ".."} or "/" in name or "\\" in name:
            self.fail(column, "a file name without a folder")
        if len(name.encode()) > _LONGEST_NAME:
            self.fail(column, f"a file name of at most {_LONGEST_NAME} bytes")
        return name

    def flag(self, column: str) -> bool:
        """Return True or False."""
        word = self.required(column).lower()
        if word not in {"true", "false"}:
            self.fail(column, "True or False")
        return word == "true"

    def captions(self, column: str | None) -> tuple[str, ...]:
        """Return distinct captions from a text or a list of texts (in CSV as JSON or Python writes it).

        Lines of a caption are joined by spaces. Text such as `[laughter]` or `[1, 2]` is not a list.
        """
        value = self._value(column)
        if isinstance(value, str) and value.lstrip().startswith(("[", "(")):
            listed = _list_of(value.strip())
            if listed is None and _QUOTED_LIST.match(value):
                self.fail(column, 'a text, or a JSON list of captions such as ["a dog barks", "barking"],')
            if listed and all(isinstance(caption, str) for caption in listed):
                value = listed
        captions = value if isinstance(value, list) else [value]
        if len(captions) > _MOST_VALUES:
            self.fail(column, f"a list of at most {_MOST_VALUES:,} captions")
        texts = (self._text(column, one_line(text) if isinstance(text, str) else text) for text in captions)
        return tuple(dict.fromkeys(text for text in texts if text))

    def texts(self, column: str | None, separator: str | None = None) -> tuple[str, ...]:
        """Return distinct texts from a list (in CSV as JSON or Python writes it), separated text or one text.

        Text such as `[laughter]` or `[1].jpg` is not a list, but `[1]` is.
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
        """Return a number of zero or more; None for an empty cell."""
        return self._number(column, "a number of zero or more")

    def whole_number(self, column: str | None, *, hint: str = "") -> int | None:
        """Return an integer of zero or more, also written as `1.0`; None for an empty cell."""
        expected = f"a whole number of at most 9 digits{hint}"
        number = self._number(column, expected, limit=10**9)
        if number is not None and number != int(number):
            self.fail(column, expected)
        return None if number is None else int(number)

    def required_number(self, column: str) -> int:
        """Return an integer of zero or more; an empty cell is an error."""
        self.required(column)
        number = self.whole_number(column)
        return self.fail(column, "a whole number") if number is None else number

    def fail(self, column: str | None, expected: str) -> NoReturn:
        """Raise a RowError that names the cell and the expected value."""
        found = f'{column} is "{shown(self._value(column))}"'
        raise RowError(Place(self.table, self.line), found, f"{expected} is expected.")

    def _value(self, column: str | None) -> Any:
        value = None if column is None else self.values.get(column)
        if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
            return value["path"]  # a file of the Hugging Face Hub whose content is elsewhere
        return value

    def _number(self, column: str | None, expected: str, *, limit: float = math.inf) -> float | None:
        text = self.text(column)
        if text is None or text in _NO_NUMBER:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < limit:
            self.fail(column, expected)
        return number

    def _text(self, column: str | None, value: object) -> str:
        """Return the checked text of one value; "" for an empty one."""
        if is_empty(value):
            return ""
        if isinstance(value, bytes | Mapping):
            self.fail(
                column,
                "the path of a file (not its content, as tables of the Hugging Face Hub hold: write each "
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


def _list_of(text: str) -> list[Any] | None:
    """Parse a list as JSON writes it, or a list or tuple as Python does; None for other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if repr(value) != text:  # such as ['a' 'b']: two texts of numpy, but one of Python
            return None
    return list(value) if isinstance(value, list | tuple) else None


def is_empty(value: object) -> bool:
    """Return whether a cell is empty: None, NaN, or a word for a missing value."""
    if isinstance(value, str):
        return value.strip() in _EMPTY
    return value is None or value != value  # noqa: PLR0124 - NaN alone differs from itself


def trimmed(text: str) -> str:
    """Strip text; return "" if none of it is visible."""
    text = text.strip()
    if text.isprintable() or any(unicodedata.category(mark) not in ("Cf", "Zs") for mark in text):
        return text
    return ""


def one_line(text: str) -> str:
    """Join the lines of a text with spaces."""
    return _LINE_BREAK.sub(" ", text.strip())


def whole(text: str) -> str:
    """Return `1` for `1.0`, as pandas writes whole numbers beside missing ones; keep other text."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def all_whole(texts: set[str]) -> bool:
    """Return whether all texts are whole numbers, at least one of them written as `1.0`."""
    return any(whole(text) != text for text in texts) and all(
        re.fullmatch(r"-?\d+", whole(text), re.ASCII) for text in texts
    )


def shown(value: object) -> str:
    """Return the beginning of a cell for a message, with refused characters replaced."""
    text = "" if value is None else str(value)[:80]
    return "".join(mark if is_plain(mark) else "\ufffd" for mark in text)


def shortlist(items: Sequence[object], most: int = 5, *, separator: str = ", ") -> str:
    """Join the first items and count the rest: "a, b, and 3 more"."""
    more = [f"and {len(items) - most:,} more"] * (len(items) > most)
    return separator.join([*map(str, items[:most]), *more])
