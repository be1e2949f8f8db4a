"""What a data set may find wrong with its own files when `--check` asks it, before any run.

A damaged data set often cannot be built at all, so its class is asked, with the arguments that its
constructor would get but for `fold` and the one that chooses the split:

    class Birds(Dataset):
        @classmethod
        def inspect_data(cls, **args) -> Inspection: ...

It looks at the whole data set, whatever the fold held out, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


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


@dataclass(frozen=True, kw_only=True)
class Space:
    """Room that a run takes on a disk.

    Attributes:
        folder: where; it need not be there yet.
        size_bytes: about how much, beyond what is there already.
        purpose: what for, as "decoded samples".
    """

    folder: Path
    size_bytes: int
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that was found: what is wrong, the room a run needs, and in a line what was looked at."""

    findings: tuple[Finding, ...] = ()
    space: tuple[Space, ...] = ()
    summary: str = ""
