"""Strict, size-limited JSON parsing, and the comments that a protocol may have besides."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

LARGEST_BYTES = 1_000_000
"""Of a file: a protocol names data, it does not carry them."""
MOST_VALUES = 20_000
DEEPEST = 50
"""Lists and objects inside each other; what copies or checks them calls itself for each."""

_LARGEST_INTEGER = 2**63 - 1
# A string or comment that does not end goes to the end of the text, so that none is read twice.
_TOKEN = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"?|//[^\n]*|/\*.*?(?:\*/|\Z)|[\[\]{},:]|[^\s"/\[\]{},:]+|/', re.DOTALL
)


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is no JSON (json.JSONDecodeError, which has the place), too large, or has a key twice,
            a number that is not finite or needs more than 64 bits, a NUL or half of a surrogate pair.
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"more than {LARGEST_BYTES:,} characters are no protocol.")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        raise _too_deep() from None
    _check(value)
    return value


def without_comments(text: str) -> str:
    """Blank `//` and `/* */` comments and trailing commas; everything else keeps its line and column.

    Raises:
        json.JSONDecodeError: a comment does not end.
    """
    if len(text) > LARGEST_BYTES:
        return text  # refused by parse
    kept: list[str] = []
    end = 0
    comma, value_before = None, False  # the last token, if it is a comma, and whether it follows a value
    for token in _TOKEN.finditer(text):
        word = token[0]
        is_comment = word.startswith(("//", "/*"))
        if word.startswith("/*") and not (word.endswith("*/") and len(word) > len("/*/")):
            raise json.JSONDecodeError(
                "The comment that begins here does not end; write */", text, token.start()
            )
        if word in ("]", "}") and comma is not None and value_before:
            kept[comma] = " "
        kept += [text[end : token.start()], re.sub(r"[^\n]", " ", word) if is_comment else word]
        end = token.end()
        if is_comment:
            continue
        if word == ",":
            value_before, comma = comma is None and value_before, len(kept) - 1
        else:
            value_before, comma = word not in ("[", "{", ":"), None
    return "".join([*kept, text[end:]])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    if repeated:
        raise ValueError(f'the key "{_short(repeated[0])}" stands twice in one object; keep one.')
    return dict(pairs)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{_short(number)} is no number of JSON; write a finite one or null.")
    return float(number)


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _LARGEST_INTEGER:
        raise ValueError(f"{_short(digits)} is too large; whole numbers go to {_LARGEST_INTEGER}.")
    return int(digits)


def _check(value: Any) -> None:
    """Raise a ValueError for what is too deep or too much, and for text that cannot be written down."""
    level, values = [value], 0
    for _ in range(DEEPEST + 1):
        values += len(level)
        if values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values are no protocol.")
        for one in level:
            for text in one if isinstance(one, dict) else [one] if isinstance(one, str) else []:
                _check_text(text)
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise _too_deep()


def _check_text(text: str) -> None:
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{json.dumps(_short(text))} has a NUL or half of a surrogate pair; take it out.")


def _too_deep() -> ValueError:
    return ValueError(f"more than {DEEPEST} lists and objects lie inside each other.")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
