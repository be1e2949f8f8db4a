"""Findings of a data set about its own files, for `--check`.

A damaged data set often cannot be built, so its class inspects it, with the arguments of the constructor
except the one that selects the split:

    class Birds(Dataset):
        @classmethod
        def inspect_data(cls, **args) -> Inspection: ...

It inspects the whole data set, once for all folds, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

NAMED = 5
"""Number of places named per kind of finding; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        severity: "error" if a run would fail or its figures be wrong; "warning" if it is suspicious.
        what: the finding, a sentence; findings with the same sentence are shown together.
        where: file, line or JSON path, and details that differ from case to case; "" if `what` has them.
        remedy: what to do, a sentence; "" if `what` says it.
    """

    severity: Severity
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Kind:
    """Findings that differ only in their places."""

    severity: Severity
    what: str
    remedy: str
    places: tuple[str, ...]


def kinds(findings: Iterable[Finding]) -> Iterator[Kind]:
    """Group findings that differ only in their places, errors first."""
    found: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        found.setdefault((finding.severity, finding.what, finding.remedy), []).append(finding.where)
    for (severity, what, remedy), places in found.items():
        yield Kind(severity, what, remedy, tuple(places))


def said(findings: Iterable[Finding]) -> list[str]:
    """Format each kind of finding as a line: what, how often, the first places, and the remedy."""
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
    """Disk space that a run needs.

    Attributes:
        folder: its folder, which may not exist yet.
        size_bytes: approximate size, beyond what exists already; None if unknown.
        purpose: use of the space, such as "decoded samples".
    """

    folder: Path
    size_bytes: int | None
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Result of an inspection.

    Attributes:
        findings: errors and warnings.
        space: disk space that a run needs.
        summary: a line that says what was inspected.
        to_build: arguments with which the data set can be built despite errors among the findings, so that a
            check can continue; empty if none are needed, or help.
    """

    findings: tuple[Finding, ...] = ()
    space: tuple[Space, ...] = ()
    summary: str = ""
    to_build: Mapping[str, Any] = field(default_factory=dict)
