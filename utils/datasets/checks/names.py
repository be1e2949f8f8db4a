"""Finds names of classes that look alike, like a missing value, or like several names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator

from ignite_trainer.api.findings import Finding

_ABSENT = frozenset({"none", "null", "nil", "na", "n/a", "nan", "-", "?"})
_SEPARATORS = re.compile(r"[;|,]")


def name_findings(names: Collection[str]) -> Iterator[Finding]:
    """Find suspicious class names; each name is given once."""
    alike: dict[str, list[str]] = defaultdict(list)
    known = set(names)
    for name in sorted(known):
        parts = [part.strip() for part in _SEPARATORS.split(name)]
        if len(parts) > 1 and not known.isdisjoint(parts):
            yield Finding(
                severity="warning",
                what="The name of a class consists of others, as if a row had several labels.",
                where=name,
                remedy='Name what separates them, as by "separator": ";" of a Table, or rename the class.',
            )
        alike[_as_seen(name)].append(name)
        if not _as_seen(name).isprintable():
            yield Finding(
                severity="warning",
                what="The name of a class has characters that cannot be printed.",
                where=name,
                remedy="Correct it in the table.",
            )
        if name.lower() in _ABSENT:
            yield Finding(
                severity="warning",
                what="A class name looks like a missing value.",
                where=name,
                remedy="Leave these cells empty, unless the class is meant.",
            )
    for several in alike.values():
        if len(several) > 1:
            yield Finding(
                severity="warning",
                what="Several classes have names that look alike.",
                where=", ".join(map(ascii, several)),
                remedy="Write the name in one way in the table.",
            )


def _as_seen(name: str) -> str:
    """Return a name in lower case, without characters that have no glyph, with one code for each letter."""
    kept = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    return unicodedata.normalize("NFKC", kept).casefold()
