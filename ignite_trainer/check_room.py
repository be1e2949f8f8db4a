"""Room on the disks: what runs will write, held against what is free."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ignite_trainer.inspection import Finding, Space

_FULL = 0.9  # of what is free; who needs more is warned


def room_findings(spaces: Iterable[Space], facts: dict[str, str]) -> list[Finding]:
    """Look, disk by disk, whether all of this has room, and folder by folder whether it can be written.

    What is needed and what is free is added to `facts`.
    """
    disks: dict[int, list[Space]] = defaultdict(list)
    places: dict[Path, None] = {}
    for space in spaces:
        place = _existing(space.folder)
        places[place] = None
        disks[place.stat().st_dev].append(space)
    findings = []
    for number, needs in enumerate(disks.values(), start=1):
        sizes: dict[str, int] = defaultdict(int)
        for space in needs:
            sizes[f"{space.purpose} in {space.folder}"] += space.size_bytes
        free, needed = shutil.disk_usage(_existing(needs[0].folder)).free, sum(sizes.values())
        what = ", ".join(f"{_readable(size)} for {purpose}" for purpose, size in sizes.items() if size)
        name = f"Disk {number}" if len(disks) > 1 else "Disk"
        facts[name] = f"{_readable(free)} free" + (f"; needed are about {what}" if what else "")
        if needed > _FULL * free:
            findings.append(
                Finding(
                    severity="error" if needed > free else "warning",
                    what=f"About {_readable(needed)} are needed of a disk with {_readable(free)} free.",
                    where=what,
                    remedy="Make room, or choose other folders.",
                )
            )
    return [*findings, *filter(None, map(_not_writable, places))]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _not_writable(place: Path) -> Finding | None:
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return Finding(
            severity="error",
            what="Nothing can be written there, and a run has to.",
            where=f"{place} ({os.strerror(error.errno or 0)})",
            remedy="Choose another folder.",
        )


def _readable(size_bytes: float) -> str:
    """A size as a person reads it: "1.2 GB"."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB" if size_bytes < 1000 else f"{size_bytes:,.0f} GB"
