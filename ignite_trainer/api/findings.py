"""Problems that a data set finds in its own files, for `--check`.

A damaged data set often cannot be built, so inspecting it is a class method. The method takes the
constructor's arguments, except the argument that selects the split, unless the protocol uses a single split:

    class Birds(Dataset):
        @classmethod
        def inspect_data(cls, **args) -> Inspection: ...

It inspects the whole data set, once for all folds, and does not modify it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

NAMED = 5
"""Number of locations listed for each kind of finding; the rest are only counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem in a data set.

    Attributes:
        severity: "error" if a run would fail or produce wrong results; "warning" if the data is suspicious.
        what: description of the problem, a sentence; findings with the same description are shown together.
        where: location of the problem (file, line or JSON path) and other details that vary between findings
            with the same description; "" if `what` contains them.
        remedy: advice on how to solve the problem, a sentence; "" if `what` contains it.
    """

    severity: Severity
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Kind:
    """Findings that differ only in location."""

    severity: Severity
    what: str
    remedy: str
    places: tuple[str, ...]


def kinds(findings: Iterable[Finding]) -> Iterator[Kind]:
    """Group findings that differ only in location; yield errors first."""
    found: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        found.setdefault((finding.severity, finding.what, finding.remedy), []).append(finding.where)
    for (severity, what, remedy), places in found.items():
        yield Kind(severity, what, remedy, tuple(places))


def format_findings(findings: Iterable[Finding]) -> list[str]:
    """Format each kind of finding as a line: description, count, first locations and remedy."""
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
        folder: folder that will hold the files; it may not exist yet.
        size_bytes: approximate size of the files still to be written, in bytes; None if unknown.
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
        summary: one-line description of the files inspected.
        to_build: arguments that allow the data set to be built despite errors, so that the check can
            continue; empty if no arguments are needed, or if none would help.
    """

    findings: tuple[Finding, ...] = ()
    space: tuple[Space, ...] = ()
    summary: str = ""
    to_build: Mapping[str, Any] = field(default_factory=dict)
