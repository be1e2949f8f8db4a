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
                "The name of a class consists of others, as if a row had several labels.",
                name,
                'Name the separator, as by "separator": ";" of a Table, or rename the class.',
            )
        as_seen = _as_seen(name)
        alike[as_seen].append(name)
        if not as_seen.isprintable():
            yield warning(
                "The name of a class has characters that cannot be printed.", name, "Correct it in the table."
            )
        if name.lower() in _ABSENT:
            yield warning(
                "A class name looks like a missing value.",
                name,
                "Leave these cells empty, unless the class is meant.",
            )
    for several in alike.values():
        if len(several) > 1:
            yield warning(
                "Several classes have names that look alike.",
                ", ".join(map(ascii, several)),
                "Spell the name in one way in the table.",
            )


def _as_seen(name: str) -> str:
    """Return a name in lower case, without invisible characters, with one code for each letter."""
    kept = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    return unicodedata.normalize("NFKC", kept).casefold()
