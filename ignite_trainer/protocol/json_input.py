"""Strict JSON parsing, and the comments that a protocol may have besides."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

# A string or comment that does not end goes to the end of the text, so that none is read twice.
_TOKEN = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"?|//[^\n]*|/\*.*?(?:\*/|\Z)|[\[\]{},:]|[^\s"/\[\]{},:]+|/', re.DOTALL
)


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON (json.JSONDecodeError, which has the place), or has a key twice or a number
            that is not finite.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def without_comments(text: str) -> str:
    """Blank `//` and `/* */` comments and trailing commas; everything else keeps its line and column.

    Raises:
        json.JSONDecodeError: a comment does not end.
    """
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
        raise ValueError(f'the key "{repeated[0]}" stands twice in one object; keep one.')
    return dict(pairs)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is no number of JSON; write a finite one or null.")
    return float(number)
