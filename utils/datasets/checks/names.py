"""Class names that look alike, like a missing value, or like several labels."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator

from ignite_trainer.api.findings import Finding
from utils.datasets.checks import warning

_ABSENT = frozenset({"none", "null", "nil", "na", "n/a", "nan", "-", "?"})
_SEPARATORS = re.compile(r"[;|,]")


def name_findings(names: Collection[str]) -> Iterator[Finding]:
    """Find suspicious class names."""
    alike: dict[str, list[str]] = defaultdict(list)
    known = set(names)
    for name in sorted(known):
        parts = [part.strip() for part in _SEPARATORS.split(name)]
        if len(parts) > 1 and not known.isdisjoint(parts):
            yield warning(
                "A class name contains another class name and a separator, as if a row had several labels.",
                name,
                'Set the separator, such as "separator": ";" for a Table, or rename the class.',
            )
        as_seen = _as_seen(name)
        alike[as_seen].append(name)
        if not as_seen.isprintable():
            yield warning("A class name has unprintable characters.", name, "Correct it in the table.")
        if name.lower() in _ABSENT:
            remedy = (
                "If it means a missing value, leave the cells empty; if it is a class, ignore this warning."
            )
            yield warning("A class name looks like a missing value.", name, remedy)
    for several in alike.values():
        if len(several) > 1:
            yield warning(
                "Several class names look alike.",
                ", ".join(map(ascii, several)),
                "Spell the name the same way throughout the table.",
            )


def _as_seen(name: str) -> str:
    """Remove invisible characters from a name, normalise it to NFKC, and casefold it."""
    kept = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    return unicodedata.normalize("NFKC", kept).casefold()
