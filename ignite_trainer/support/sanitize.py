"""Makes text from files safe to print: no control or hidden characters."""

from __future__ import annotations

import re

# Control characters except tab and newline, characters that change the direction of text, and surrogates.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_seen(letter: str) -> bool:
    """Return whether a character is safe to print within a line."""
    return letter not in "\t\n\u2028\u2029" and _UNSEEN.fullmatch(letter) is None


def visible(text: str) -> str:
    """Replace unsafe characters; keep tabs and newlines."""
    return _UNSEEN.sub("\ufffd", text)
