"""Compares the disk space and memory that runs need with the free space and memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ignite_trainer.api.findings import Finding, Space
from ignite_trainer.checkpoints.state_validation import BEST_KEPT
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.results import run_folder

_MEMORY, _OWN = Path("/proc/meminfo"), Path("/proc/self/statm")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_FULL = 0.9  # a run that needs more than this share of the free space gets a warning
_OPTIMIZER_STATE = 2  # values per trained parameter, as with Adam; few optimizers have more
_LAST_KEPT = 3  # the last two states, and the next state while it is being written


class ModelSize(NamedTuple):
    """Bytes of a model's state dict, and of its trained and frozen parameters."""

    state: int
    trained: int
    frozen: int

    @classmethod
    def of(cls, model: nn.Module) -> ModelSize:
        """Add up the tensors of a model."""
        state = sum(value.nbytes for value in model.state_dict().values() if hasattr(value, "nbytes"))
        parameters = list(model.parameters())
        trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
        return cls(state, trained, sum(parameter.nbytes for parameter in parameters) - trained)


def least_memory(protocol: Protocol, size: ModelSize) -> int:
    """Return the bytes that a run needs for weights, gradients and optimizer; activations need more."""
    trains = bool(protocol.setup.epochs)
    return size.state + trains * (1 + _OPTIMIZER_STATE) * size.trained


def checkpoint_space(protocol: Protocol, size: ModelSize | None) -> Space:
    """Return the disk space that one run's checkpoints need; it is unknown if the model's size is None."""
    setup = protocol.setup
    size_bytes = None
    if size:
        lines = sum(line.is_checkpoint for line in protocol.lines.values())
        # One more, for epoch 0; a superseded file also stays until the next state is saved.
        best = (min(BEST_KEPT, setup.epochs) + 1) * lines * size.state
        copies = _OPTIMIZER_STATE + (setup.ema is not None or setup.swa is not None)
        last = _LAST_KEPT * (size.state - size.frozen + copies * size.trained)
        size_bytes = best + last + size.frozen if setup.epochs else 0
    return Space(folder=run_folder.root_of(protocol.setup), size_bytes=size_bytes, purpose="checkpoints")


def room_findings(spaces: Iterable[Space], facts: dict[str, str]) -> list[Finding]:
    """Check that disks have enough space and folders are writable; add a line per disk to `facts`."""
    disks: dict[int, list[Space]] = defaultdict(list)
    places: dict[Path, None] = {}
    for space in spaces:
        place = existing(space.folder)
        places[place] = None
        disks[place.stat().st_dev].append(space)
    findings = []
    for number, needs in enumerate(disks.values(), start=1):
        sizes: Counter[str] = Counter()
        for space in needs:
            sizes[f"{space.purpose} in {space.folder}"] += space.size_bytes or 0
        unknown = dict.fromkeys(
            f"{space.purpose} in {space.folder}" for space in needs if space.size_bytes is None
        )
        free, needed = shutil.disk_usage(existing(needs[0].folder)).free, sizes.total()
        what = ", ".join(f"{_readable(size)} for {purpose}" for purpose, size in sizes.items() if size)
        parts = [f"{_readable(free)} free"]
        parts += [f"needs about {what}"] if what else []
        parts += [f"unknown size of {', '.join(unknown)}"] if unknown else []
        facts[f"Disk {number}" if len(disks) > 1 else "Disk"] = "; ".join(parts)
        if needed > _FULL * free:
            findings.append(
                Finding(
                    severity="error" if needed > free else "warning",
                    what=f"About {_readable(needed)} of disk space is needed; {_readable(free)} is free.",
                    where=what,
                    remedy="Free some space, or choose other folders.",
                )
            )
    return [*findings, *filter(None, map(_not_writable, places))]


def memory_findings(
    needed_bytes: int, device: torch.device, facts: dict[str, str], *, at_least_for: str = ""
) -> list[Finding]:
    """Warn if the training device may run out of memory; add a line about it to `facts`.

    Args:
        needed_bytes: memory of the process if the device is the CPU, otherwise memory on the device.
        device: the training device.
        facts: lines of the report, by the name of the checked part.
        at_least_for: uses that `needed_bytes` covers, if the run also has other uses.
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
            what=f"The run needs {needed} of {name.lower()}; {_readable(free)} is free.",
            remedy="Lower the batch with -b and -B, or set Setup.chunk, Setup.accumulate or Setup.recompute.",
        )
    ]


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may use, including the bytes in use; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if not _MEMORY.is_file():
        return None
    own = int(_OWN.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0]) + own
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"  # the limit of a container
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
            what="The run cannot write to a folder that it needs.",
            where=f"{place} ({os.strerror(error.errno or 0)})",
            remedy="Choose another folder.",
        )


def _readable(size_bytes: float) -> str:
    """Format a size: "1.2 GB"."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB" if size_bytes < 1000 else f"{size_bytes:,.0f} GB"
