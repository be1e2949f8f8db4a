"""Which run of a protocol can be gone on with, and what its log keeps of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ignite_trainer.api import file_names
from ignite_trainer.api.affects import Affects
from ignite_trainer.api.reporter import Event, Fault, Iteration, RunEnd
from ignite_trainer.checkpoints.checkpoint_files import states_of
from ignite_trainer.checkpoints.checkpoints import Position
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.identity import selected
from ignite_trainer.protocol.reading import read_json
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import validate
from ignite_trainer.reporters import jsonl
from ignite_trainer.results import run_folder
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import write_text

_FIXED = set(Affects) - {Affects.SWEEP, Affects.HANDLING}
_NAMED = 3  # keys that differ; more are no help


def newest_run(blueprint: Blueprint) -> Path | None:
    """Return the newest unfinished run of a protocol, else the newest finished one, else None."""
    protocol = blueprint.protocol
    same = [folder for folder in _runs(protocol) if not _differences(blueprint, folder)]
    return next((folder for folder in same if not is_finished(protocol, folder)), next(iter(same), None))


def passed_over(blueprint: Blueprint) -> str | None:
    """Say how the newest unfinished run of another protocol of that name differs; None if there is none."""
    for folder in _runs(blueprint.protocol):
        if not (folder / file_names.RESULT).exists() and (differences := _differences(blueprint, folder)):
            return (
                f"The unfinished run in {folder} is of another protocol: {_first(differences)}. "
                f"--resume {folder} without -c goes on with it as it is."
            )
    return None


def is_finished(protocol: Protocol, folder: Path) -> bool:
    """Whether the run in a folder has done all epochs of the protocol, and written all down."""
    try:
        return RunRecord.read(folder / file_names.RESULT).epochs >= protocol.setup.epochs
    except ProtocolError:
        return False


def finished(folder: Path) -> tuple[RunRecord, RunEnd]:
    """What a finished run reached, from its folder."""
    record, checkpoints = RunRecord.read(folder / file_names.RESULT), folder / file_names.CHECKPOINTS
    best = tuple(
        replace(best, checkpoint=best.checkpoint and checkpoints / best.checkpoint) for best in record.best
    )
    end = RunEnd(
        last_epoch=record.epochs,
        last=record.last,
        best=best,
        last_checkpoint=checkpoints / record.checkpoint.name if record.checkpoint else None,
        seconds=record.seconds,
    )
    return record, end


def can_go_on(blueprint: Blueprint, folder: Path) -> bool:
    """Return whether a folder holds a state of a run of this protocol."""
    states = states_of(folder / file_names.CHECKPOINTS)
    return bool((folder / file_names.PROTOCOL).exists() and states and not _differences(blueprint, folder))


def require_same(blueprint: Blueprint, folder: Path) -> None:
    """Raise a ProtocolError that names what differs, unless the run in `folder` is one of this protocol."""
    if not (folder / file_names.PROTOCOL).is_file():
        raise ProtocolError(
            f"{folder} is no folder of a run: it has no protocol.json. Name one, or leave --resume without."
        )
    differences = _differences(blueprint, folder)
    if differences:
        raise ProtocolError(
            f"The run in {folder} is of another protocol: {_first(differences)}. "
            "Go on with the protocol it has, or start a new run without --resume."
        )


def seed_of(folder: Path) -> int:
    """Read the seed of a run; a ProtocolError if none is written down."""
    path = folder / file_names.PROTOCOL
    seed = validate(read_json(path), source=str(path)).setup.seed
    if seed is None:
        raise ProtocolError(f"{path} has no Setup.seed, which that of every run has. Start a new run.")
    return seed


def take_up_log(folder: Path, position: Position | None) -> list[Event]:
    """Cut the log of a run back to the state it goes on from, and return the events left, in order.

    A value that was not finite, which JSON does not have, is read as NaN.

    Raises:
        ProtocolError: a line is not an event. An unfinished last line, left by a killed run, is dropped.
    """
    path = folder / file_names.LOG
    if not path.exists():
        return []
    # Not splitlines: a JSON string may hold characters that it takes for the end of a line, such as U+2028.
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
                f"{path}, line {number} is no event of a run ({where}{': ' if where else ''}{first['msg']}). "
                "Mend or remove that line, or start a new run without --resume."
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
    """Folders of the runs of that name, newest first."""
    parent = run_folder.runs_of(protocol)
    # Their names begin with the time. What has no protocol of its own is a sweep.
    return sorted((path.parent for path in parent.glob("*/protocol.json")), reverse=True)


def _first(differences: list[str]) -> str:
    more = f" ({len(differences) - _NAMED} more differ)" if len(differences) > _NAMED else ""
    return "; ".join(differences[:_NAMED]) + more


def _differences(blueprint: Blueprint, folder: Path) -> list[str]:
    """List in what the run in a folder differs from the protocol, a phrase for each key."""
    protocol = blueprint.protocol
    try:
        other = validate(read_json(folder / file_names.PROTOCOL))
    except ProtocolError as error:
        return [f"its protocol.json cannot be read ({error.problems[0]})"]
    ours, theirs = (dict(_flat(selected(each, _FIXED, blueprint.classes))) for each in (protocol, other))
    del ours["Setup.epochs"], theirs["Setup.epochs"]  # compared below
    if protocol.setup.seed is None:  # any will do
        del ours["Setup.seed"], theirs["Setup.seed"]
    found = [
        f"{key} is {_shown(ours, key)}, and {_shown(theirs, key)} there"
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key, ...) != theirs.get(key, ...)
    ]
    counted_on = any(spec.lasts == "rest" for spec in protocol.schedules.values())
    if counted_on and protocol.setup.epochs != other.setup.epochs:
        found.append(
            f"Setup.epochs is {protocol.setup.epochs}, and {other.setup.epochs} there, which its Scheduler "
            'counts on, as it lasts the "rest"'
        )
    elif protocol.setup.epochs < other.setup.epochs:
        found.append(f"Setup.epochs is {protocol.setup.epochs}, and {other.setup.epochs} there")
    return found


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "absent"


def _flat(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict | list) and content:
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in items:
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, content
