"""Finds the run to resume, compares its protocol, and truncates its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ignite_trainer.api import file_names
from ignite_trainer.api.affects import Affects
from ignite_trainer.api.reporter import Event, Fault, Iteration, RunEnd
from ignite_trainer.checkpoints.checkpoint_files import states_of
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.identity import selected, values_by_path
from ignite_trainer.protocol.reading import read_json
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import validate
from ignite_trainer.reporters import jsonl
from ignite_trainer.results import run_folder
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import write_text

_FIXED = set(Affects) - {Affects.SWEEP, Affects.HANDLING}
_MAX_KEYS = 3  # in a message


def newest_run(blueprint: Blueprint) -> Path | None:
    """Return a protocol's newest unfinished run or, failing that, its newest finished run, or None."""
    protocol = blueprint.protocol
    same = [folder for folder in _runs(protocol) if not _differences(blueprint, folder)]
    return next((folder for folder in same if not is_finished(protocol, folder)), next(iter(same), None))


def describe_skipped_run(blueprint: Blueprint) -> str | None:
    """Describe how the newest unfinished run with this name differs from the protocol, or return None."""
    for folder in _runs(blueprint.protocol):
        if not (folder / file_names.RESULT).exists() and (differences := _differences(blueprint, folder)):
            return (
                f"The unfinished run in {folder} has a different protocol: {_first(differences)}. "
                f"--resume {folder} without -c resumes it unchanged."
            )
    return None


def is_finished(protocol: Protocol, folder: Path) -> bool:
    """Return whether the run in a folder has finished all epochs in the protocol, or stopped early."""
    try:
        record = RunRecord.read(folder / file_names.RESULT)
    except ProtocolError:
        return False
    return record.stopped_early or record.epochs >= protocol.setup.epochs


def read_finished_run(folder: Path) -> tuple[RunRecord, RunEnd]:
    """Read the result of a finished run."""
    record, checkpoints = RunRecord.read(folder / file_names.RESULT), folder / file_names.CHECKPOINTS
    end = RunEnd(
        last_epoch=record.epochs,
        last=record.last,
        best=tuple(
            replace(best, checkpoint=best.checkpoint and checkpoints / best.checkpoint)
            for best in record.best
        ),
        last_checkpoint=checkpoints / record.checkpoint.name if record.checkpoint else None,
        seconds=record.seconds,
        stopped_early=record.stopped_early,
    )
    return record, end


def can_resume(blueprint: Blueprint, folder: Path) -> bool:
    """Return whether a folder holds a run of this protocol, with at least one state."""
    states = states_of(folder / file_names.CHECKPOINTS)
    return bool((folder / file_names.PROTOCOL).exists() and states and not _differences(blueprint, folder))


def require_same(blueprint: Blueprint, folder: Path) -> None:
    """Raise a ProtocolError that lists the differences if the run in `folder` has a different protocol."""
    if not (folder / file_names.PROTOCOL).is_file():
        raise ProtocolError(
            f"{folder} is not the folder of a run: it has no protocol.json. Name the "
            "folder of a run, or give --resume without one."
        )
    if differences := _differences(blueprint, folder):
        raise ProtocolError(
            f"The run in {folder} has a different protocol: {_first(differences)}. "
            "Resume it with its own protocol, or start a new run without --resume."
        )


def seed_of(folder: Path) -> int:
    """Read the seed of a run."""
    path = folder / file_names.PROTOCOL
    seed = validate(read_json(path), source=str(path)).setup.seed
    if seed is None:
        raise ProtocolError(f"{path} has no Setup.seed, but every run has one. Start a new run.")
    return seed


def truncate_log(folder: Path, position: Position | None) -> list[Event]:
    """Truncate a run's log to the position it resumes from, and return the remaining events in order.

    An incomplete last line, left by a killed run, is dropped.

    Raises:
        ProtocolError: A line is not an event.
    """
    path = folder / file_names.LOG
    if not path.exists():
        return []
    # Not splitlines: it would also split at characters such as U+2028, which JSON strings may contain.
    lines = path.read_bytes().rstrip().split(b"\n") if position else []
    kept: list[tuple[bytes, jsonl.Entry]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = jsonl.ENTRY.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if number == len(lines) and first["type"] == "json_invalid":
                break
            where = ".".join(map(str, first["loc"][1:]))
            raise ProtocolError(
                f"{path}, line {number} is not an event of a run ({where}{': ' if where else ''}"
                f"{first['msg']}). Correct or remove that line, or start a new run without --resume."
            ) from error
        if position is not None and _is_before(entry, position):
            kept.append((line + b"\n", entry))
    write_text(path, b"".join(line for line, _ in kept).decode())
    return [entry for _, entry in kept if isinstance(entry, Event)]


def _is_before(entry: jsonl.Entry, position: Position) -> bool:
    match entry:
        case RunEnd():
            return False
        case Iteration() | Fault():
            return entry.iteration <= position.iteration
        case _:
            return entry.epoch < position.epoch or (position.complete and entry.epoch == position.epoch)


def _runs(protocol: Protocol) -> list[Path]:
    """List the folders of runs with the protocol's name, newest first (folder names begin with the time)."""
    folders = run_folder.runs_of(protocol.setup).glob(f"*/{file_names.PROTOCOL}")
    return sorted((path.parent for path in folders), reverse=True)


def _first(differences: list[str]) -> str:
    more = len(differences) - _MAX_KEYS
    return "; ".join(differences[:_MAX_KEYS]) + (f" ({more} more differ)" if more > 0 else "")


def _differences(blueprint: Blueprint, folder: Path) -> list[str]:
    """Describe each difference between the run in a folder and the protocol."""
    protocol = blueprint.protocol
    try:
        other = validate(read_json(folder / file_names.PROTOCOL))
    except ProtocolError as error:
        return [f"its protocol.json cannot be read ({error.problems[0]})"]
    ours, theirs = (values_by_path(selected(each, _FIXED, blueprint.classes)) for each in (protocol, other))
    ignored = {"Setup.epochs"}  # compared below
    if protocol.setup.seed is None:
        ignored.add("Setup.seed")  # any seed will do
    found = [
        f"{key} is {_shown(ours, key)}, but {_shown(theirs, key)} in that run"
        for key in dict.fromkeys([*ours, *theirs])
        if key not in ignored and ours.get(key, ...) != theirs.get(key, ...)
    ]
    epochs, done = protocol.setup.epochs, other.setup.epochs
    schedules = zip(protocol.schedules.values(), blueprint.schedulers, strict=True)
    by_epochs = any(spec.duration(kind) == "rest" for spec, kind in schedules)
    reason = ""
    if by_epochs:
        reason = ' (a Scheduler whose lasts is "rest" depends on it)'
    elif protocol.setup.swa is not None:
        reason = " (Setup.swa, a share of the epochs, depends on it)"
    if epochs < done or (reason and epochs != done):
        found.append(f"Setup.epochs is {epochs}, but {done} in that run{reason}")
    return found


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"
