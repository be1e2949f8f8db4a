"""Which known names are near to one that is none: for messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, count: int = 1) -> list[str]:
    """Return the known names that are most like `name`, the nearest first, whatever their case."""
    by_case = {one.lower(): one for one in known}
    return [by_case[near] for near in difflib.get_close_matches(name.lower(), by_case, n=count, cutoff=0.6)]
