"""Room on the disks and in memory: what runs will take, held against what is free."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from ignite_trainer.inspection import Finding, Space

_MEMORY, _OWN = Path("/proc/meminfo"), Path("/proc/self/statm")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_FULL = 0.9  # of what is free; who needs more is warned


def room_findings(spaces: Iterable[Space], facts: dict[str, str]) -> list[Finding]:
    """Look, disk by disk, whether all of this has room, and folder by folder whether it can be written.

    What is needed and what is free is added to `facts`.
    """
    disks: dict[int, list[Space]] = defaultdict(list)
    places: dict[Path, None] = {}
    for space in spaces:
        place = existing(space.folder)
        places[place] = None
        disks[place.stat().st_dev].append(space)
    findings = []
    for number, needs in enumerate(disks.values(), start=1):
        sizes: dict[str, int] = defaultdict(int)
        unknown: dict[str, None] = {}
        for space in needs:
            place_of = f"{space.purpose} in {space.folder}"
            if space.size_bytes is None:
                unknown[place_of] = None
            else:
                sizes[place_of] += space.size_bytes
        free, needed = shutil.disk_usage(existing(needs[0].folder)).free, sum(sizes.values())
        what = ", ".join(f"{_readable(size)} for {purpose}" for purpose, size in sizes.items() if size)
        name = f"Disk {number}" if len(disks) > 1 else "Disk"
        more = f"not known for {', '.join(unknown)}" if unknown else ""
        facts[name] = "; ".join(
            filter(None, [f"{_readable(free)} free", f"needed are about {what}" if what else "", more])
        )
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


def memory_findings(
    needed_bytes: int, device: torch.device, facts: dict[str, str], *, at_least_for: str = ""
) -> list[Finding]:
    """Warn where memory, of the device that trains, will not suffice; add what is needed and free to `facts`.

    Args:
        needed_bytes: of the whole process on the CPU; else on the device.
        device: the one that trains.
        facts: what is shown, by name.
        at_least_for: what that is counted for, where a run needs it for more than that.
    """
    free = _free_memory(device)
    name = "Memory" if device.type == "cpu" else f"Memory of {device}"
    needed = f"{'at least' if at_least_for else 'about'} {_readable(needed_bytes)}"
    counted = f" for {at_least_for}" if at_least_for else ""
    facts[name] = f"{needed} needed{counted}" + ("" if free is None else f"; {_readable(free)} free")
    if free is None or needed_bytes <= _FULL * free:
        return []
    return [
        Finding(
            severity="warning",
            what=f"The run needs {needed} of {name.lower()}; {_readable(free)} are free.",
            remedy="Lower the batch with -b and -B, or set Setup.chunk, Setup.accumulate or Setup.recompute.",
        )
    ]


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may use, with those it has; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if not _MEMORY.is_file():
        return None
    own = int(_OWN.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0]) + own
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"  # of a container
    return free if limit == "max" else min(free, int(limit))


def existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
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
