"""What a data set may find wrong with its own files when `--check` asks it, before any run.

A damaged data set often cannot be built at all, so its class is asked, with the arguments of its constructor
except the one that chooses the split:

    class Birds(Dataset):
        @classmethod
        def inspect_data(cls, **args) -> Inspection: ...

It looks at the whole data set, is asked once for runs that differ in `fold` alone, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

NAMED = 5
"""Places of one kind of finding that are named; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found.

    Attributes:
        severity: "error": a run would fail, or its figures be wrong; "warning": it is suspicious.
        what: what is found, a sentence; findings that share it are shown together.
        where: the file, line or JSON path it was found at, with what differs from case to case; "" where
            `what` says it.
        remedy: what to do about it, a sentence; "" where `what` says it.
    """

    severity: Severity
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Kind:
    """Findings that are alike: `places` are where each was found."""

    severity: Severity
    what: str
    remedy: str
    places: tuple[str, ...]


def kinds(findings: Iterable[Finding]) -> Iterator[Kind]:
    """Put findings that are alike together, errors first."""
    found: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        found.setdefault((finding.severity, finding.what, finding.remedy), []).append(finding.where)
    for (severity, what, remedy), places in found.items():
        yield Kind(severity, what, remedy, tuple(places))


def said(findings: Iterable[Finding]) -> list[str]:
    """Say each kind of finding in a line: what it is, how often, the first places, and the remedy."""
    texts = []
    for kind in kinds(findings):
        places = [place for place in kind.places if place]
        more = f", and {len(places) - NAMED} more" if len(places) > NAMED else ""
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        what = f"{kind.what.rstrip('.')}{times}: {'; '.join(places[:NAMED])}{more}." if places else kind.what
        texts.append(f"{what} {kind.remedy}".rstrip())
    return texts


@dataclass(frozen=True, kw_only=True)
class Space:
    """Room that a run takes on a disk.

    Attributes:
        folder: where; it need not be there yet.
        size_bytes: about how much, beyond what is there already; None: not known.
        purpose: what for, as "decoded samples".
    """

    folder: Path
    size_bytes: int | None
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Findings of a check, and what it counted.

    Attributes:
        findings: what is wrong.
        space: the room that a run needs.
        summary: in a line what was looked at.
        to_build: arguments with which the data set can be built in spite of errors among the findings, so
            that a check goes on to what else is wrong; empty if none are needed, or help.
    """

    findings: tuple[Finding, ...] = ()
    space: tuple[Space, ...] = ()
    summary: str = ""
    to_build: Mapping[str, Any] = field(default_factory=dict)
