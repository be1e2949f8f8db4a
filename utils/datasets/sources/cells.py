"""Cells of tables: which are empty, which text is refused, and how a cell is shown in a message."""

from __future__ import annotations

import re
import unicodedata

# Control characters, halves of pairs (which JSON can have), separators of lines and paragraphs. Format
# characters stay: Persian needs the non-joiner, emoji the joiner, Arabic and Hebrew marks of direction.
_REFUSED = ("Cc", "Cs", "Zl", "Zp")
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
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


def is_empty(value: object) -> bool:
    """Return whether a cell is empty: no text, NaN as a number, or a missing value of pandas."""
    if isinstance(value, str):
        return value.strip() in _EMPTY
    return value is None or value != value  # noqa: PLR0124 - NaN alone differs from itself


def is_no_number(text: str) -> bool:
    """Return whether a cell of a column of numbers holds a word for a missing value."""
    return text in _NO_NUMBER


def trimmed(text: str) -> str:
    """Text without surrounding space; "" if none of it can be seen."""
    text = text.strip()
    if text.isprintable() or any(unicodedata.category(mark) not in ("Cf", "Zs") for mark in text):
        return text
    return ""


def is_plain(text: str) -> bool:
    """Return whether text is on one line, and none of its characters acts on a terminal."""
    return text.isprintable() or all(unicodedata.category(mark) not in _REFUSED for mark in text)


def turns_text(letter: str) -> bool:
    """Return whether a character reverses the direction of the text behind it in a terminal."""
    return unicodedata.bidirectional(letter) in _TURNING


def one_line(text: str) -> str:
    """Text whose lines are joined by spaces."""
    return _LINE_BREAK.sub(" ", text.strip())


def whole(text: str) -> str:
    """`1` for `1.0`, as pandas writes the whole numbers of a column that lacks one; other text as it is."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def all_whole(texts: set[str]) -> bool:
    """Return whether all texts are whole numbers, at least one of them written as `1.0`."""
    return any(whole(text) != text for text in texts) and all(
        re.fullmatch(r"-?\d+", whole(text), re.ASCII) for text in texts
    )


def shown(value: object) -> str:
    """The beginning of a cell for a message, without characters that would be refused."""
    text = "" if value is None else str(value)[:80]
    return "".join(mark if is_plain(mark) else "\ufffd" for mark in text)
