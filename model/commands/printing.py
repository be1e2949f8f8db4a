"""Prints lines that control no terminal, without importing torch."""

from __future__ import annotations

import re
import sys

# Control characters, line and paragraph separators, characters that change the direction of text, surrogates.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """Escape characters that are unsafe in a line of a terminal, as Python does: `\\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Print lines to standard error, escaped."""
    for line in text.split("\n"):
        print(escaped(line), file=sys.stderr)
