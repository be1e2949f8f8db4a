"""Text from elsewhere for people to see: no character of it acts on a terminal, and none hides."""

from __future__ import annotations

import re

# Control characters but for tab and new line, those that turn the direction of all text behind them, and
# halves of characters, which cannot be written.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_seen(letter: str) -> bool:
    """Return whether a character stays on its line, and neither acts on a terminal nor turns text around."""
    return letter not in "\t\n\u2028\u2029" and _UNSEEN.fullmatch(letter) is None


def visible(text: str) -> str:
    """Put a replacement character for everything that cannot be seen; tabs and new lines stay."""
    return _UNSEEN.sub("\ufffd", text)
