"""Prints what a check found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ignite_trainer.api.findings import NAMED, Finding, kinds
from ignite_trainer.support.formatting import duration
from ignite_trainer.support.sanitize import is_seen
from ignite_trainer.support.terminal import show, show_rows


def show_findings(
    title: str, findings: Sequence[Finding], facts: Mapping[str, str], *, seconds: float
) -> None:
    """Print facts, findings with errors first, and how many there are."""
    if facts:
        show_rows(escaped(f"Check of {title}"), [(name, escaped(value)) for name, value in facts.items()])
    for text in _paragraphs(findings):
        show(text)
    count = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning")}
    said = ", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in count.items())
    show(escaped(f"{title}: {said} ({duration(seconds)})"))


def escaped(text: str) -> str:
    """Escape control characters as Python does: `\\x1b`. Joiners stay, as letters and emoji need them."""
    return "".join(letter if is_seen(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _paragraphs(findings: Sequence[Finding]) -> list[str]:
    """Describe each kind of finding: its first places are named, the others counted."""
    texts = []
    for kind in kinds(findings):
        places = kind.places
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        first, *rest = map(escaped, kind.what.split("\n"))
        # Indented, so that no text from a file can pass for a finding.
        lines = [f"{kind.severity}: {first}{times}", *(f"    {line}" for line in rest)]
        lines += [f"    {escaped(place)}" for place in places[:NAMED] if place]
        lines += [f"    and {len(places) - NAMED} more"] * (len(places) > NAMED)
        lines += [f"  {escaped(kind.remedy)}"] * bool(kind.remedy)
        texts.append("\n".join(lines))
    return texts
