"""What a check found as a person at a terminal reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ignite_trainer.inspection import Finding
from ignite_trainer.reporters.terminal import add_row, make_table, show
from ignite_trainer.reporters.wording import duration
from ignite_trainer.visible import is_seen

_NAMED = 5  # places of one kind of finding; the others are counted


def show_findings(
    title: str, findings: Sequence[Finding], facts: Mapping[str, str], *, seconds: float
) -> None:
    """Print what was looked at, what was found, the gravest first, and how much that is."""
    if facts:
        table = make_table(escaped(f"Check of {title}"))
        table.show_header = False
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in facts.items():
            add_row(table, name, escaped(value))
        show(table)
    for text in _paragraphs(findings):
        show(text)
    count = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning")}
    said = ", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in count.items())
    show(escaped(f"{title}: {said} ({duration(seconds)})"))


def escaped(text: str) -> str:
    """Write what acts on a terminal, such as what moves the cursor, as Python does in a string: `\\x1b`.

    Joiners and the like stay: letters and emoji need them.
    """
    return "".join(letter if is_seen(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _paragraphs(findings: Sequence[Finding]) -> list[str]:
    """A text for each kind of finding: the first places are named, the others counted."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        kinds.setdefault((finding.severity, finding.what, finding.remedy), []).append(finding.where)
    texts = []
    for (severity, what, remedy), places in kinds.items():
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        first, *rest = map(escaped, what.split("\n"))
        # Indented, so that no text from a file can pass for a finding.
        lines = [f"{severity}: {first}{times}", *(f"    {line}" for line in rest)]
        lines += [f"    {escaped(place)}" for place in places[:_NAMED] if place]
        lines += [f"    and {len(places) - _NAMED} more"] * (len(places) > _NAMED)
        lines += [f"  {escaped(remedy)}"] * bool(remedy)
        texts.append("\n".join(lines))
    return texts
