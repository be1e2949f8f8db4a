"""Reading a protocol file and checking it whole; every problem is said in words, with its JSON path."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ignite_trainer.protocol.json_input import parse, without_comments
from ignite_trainer.protocol.sections import ONE, SEVERAL, LineSpec, Protocol, ScheduleSpec
from ignite_trainer.support.errors import ProtocolError, suggest

_MESSAGES = {
    "missing": "is required.",
    "model_type": "must be a JSON object.",
    "dict_type": "must be a JSON object.",
    "list_type": "must be a JSON list.",
}
_MOST_RUNS = 2_000  # of a sweep; each is checked before the first one starts
_MOST_PROBLEMS = 100
_LONGEST_LABEL = 150  # bytes; file systems take 255 for a name, and there is more in it


def read_json(path: Path) -> dict[str, Any]:
    """Read a protocol file; an error names the file, the line and the key.

    It may have `//` and `/* */` comments, trailing commas and a byte order mark.
    """
    content = b""
    try:
        content = path.read_bytes()
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes it
        raw = parse(without_comments(content.decode("utf-16" if is_utf_16 else "utf-8-sig")))
    except FileNotFoundError:
        raise ProtocolError("there is no such file.", source=str(path)) from None
    except OSError as error:
        raise ProtocolError(f"cannot be read: {error}", source=str(path)) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ProtocolError(
            f"cannot be read: line {line} is not {error.encoding} ({error.reason}); save the file as UTF-8.",
            source=str(path),
        ) from error
    except json.JSONDecodeError as error:
        raise ProtocolError(
            f"line {error.lineno}, column {error.colno}: {error.msg}.", source=str(path)
        ) from None
    except ValueError as error:
        raise ProtocolError(str(error), source=str(path)) from None
    if not isinstance(raw, dict):
        raise ProtocolError("a protocol is one JSON object.", source=str(path))
    return raw


def validate(raw: Mapping[str, Any], *, source: str | None = None) -> Protocol:
    """Check a whole protocol and freeze it.

    Raises:
        ProtocolError: with every problem, each with its JSON path and, for a misspelt key, the nearest one.
    """
    try:
        protocol = Protocol.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        found = error.errors()
        explained = [_explain(item) for item in found[:_MOST_PROBLEMS]]
        more = [f"{len(found) - _MOST_PROBLEMS} more."] if len(found) > _MOST_PROBLEMS else []
        raise ProtocolError([*explained, *more], source=source) from None
    problems = [*_section_problems(protocol), *_line_problems(protocol.lines)]
    if problems:
        raise ProtocolError(problems, source=source)
    return protocol


def _section_problems(protocol: Protocol) -> list[str]:
    """What is wrong with sections that are each right by themselves."""
    problems = []
    if protocol.optimizer is None and protocol.setup.epochs:
        problems.append(f"Optimizer is missing, and Setup.epochs is {protocol.setup.epochs}.")
    if protocol.optimizer is None and protocol.scheduler:
        problems.append("Optimizer is missing, and the Scheduler needs one.")
    problems += _turn_problems(protocol.schedules)
    runs = math.prod(map(len, protocol.sweep.values()))
    if runs > _MOST_RUNS:
        problems.append(f"Sweep has {runs:,} combinations; at most {_MOST_RUNS:,} are carried out.")
    labels = [line.line_label for line in protocol.lines.values()]
    metric = protocol.table.metric
    if metric is not None and metric not in labels:
        problems.append(f'Table.metric is "{metric}", no line_label; {suggest(metric, labels)}')
    return problems


def _turn_problems(schedules: Mapping[str, ScheduleSpec]) -> list[str]:
    """What is wrong with schedulers that take turns."""
    paths, specs = list(schedules), list(schedules.values())
    problems = [
        f"{path}.lasts is {json.dumps(spec.lasts)}; another one follows, so write how many {spec.interval}s."
        for path, spec in zip(paths[:-1], specs[:-1], strict=True)
        if not isinstance(spec.lasts, int)
    ]
    if len(specs) > 1 and isinstance(specs[-1].lasts, int):
        problems.append(
            f'{paths[-1]}.lasts is {specs[-1].lasts}; the last one goes on to the end: "rest", or null.'
        )
    if len({spec.interval for spec in specs}) > 1:
        problems.append('Scheduler: "interval" is the same for all that take turns, "epoch" or "step".')
    return problems


def _line_problems(lines: Mapping[str, LineSpec]) -> list[str]:
    """What is wrong with metrics that are each right in form."""
    names = [line.file_name for line in lines.values()]
    problems = []
    for path, line in lines.items():
        if names.count(line.file_name) > 1:
            problems.append(
                f'{path}.line_label is "{line.line_label}", as is another line\'s but for punctuation; '
                "labels name the values in the log, and files."
            )
        if len(line.file_name.encode()) > _LONGEST_LABEL:
            problems.append(f"{path}.line_label is too long for the names of files; shorten it.")
        if not (line.train or line.test):
            problems.append(f'{path} is computed on no split; set "train" or "test" to true, or remove it.')
        elif line.update_rate == "iteration" and not line.train:
            problems.append(f'{path}.update_rate is "iteration", which is of training; "train" is false.')
        if line.is_checkpoint and (line.update_rate == "iteration" or not line.test):
            problems.append(
                f"{path}.is_checkpoint is true, but checkpoints are chosen on the held-out split after an "
                'epoch; that takes "test": true and "update_rate": "epoch".'
            )
    return problems


def json_path(location: tuple[str | int, ...]) -> str:
    """Write a location as `Metrics.Performance.lines[0].class`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).lstrip(".")


def keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that have a meaning of their own in the object at this location; none inside `args`."""
    return sorted({name for option in _options_at(location) for name in option.get("properties", {})})


def takes_text(location: tuple[str | int, ...]) -> bool:
    """Whether what stands at this location is text, or null."""
    kinds = {option.get("type") for option in _options_at(location)}
    return "string" in kinds and kinds <= {"string", "null"}


def takes_null(location: tuple[str | int, ...]) -> bool:
    """Whether null is a value at this location, as it is in `args`; so it is where there is no such key."""
    kinds = [option.get("type") for option in _options_at(location)]
    return not kinds or None in kinds or "null" in kinds


def takes_one_or_several(location: tuple[str | int, ...]) -> bool:
    """Whether an object may stand at this location, and a list of such as well."""
    return {"object", "array"} <= {option.get("type") for option in _options_at(location)}


def _options_at(location: tuple[str | int, ...]) -> list[dict[str, Any]]:
    """The schema of what may stand at this location, alternatives apart."""
    options = _options(_SCHEMA)
    for key in location:
        children = [
            child
            for option in options
            for child in (
                option.get("properties", {}).get(key),
                option.get("items"),
                option.get("additionalProperties"),
            )
            if isinstance(child, dict)
        ]
        options = [option for child in children for option in _options(child)]
    return options


def _options(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema node ("or null", say), references followed."""
    if "$ref" in node:
        return _options(_SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    return [
        option
        for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ()))
        for option in _options(alternative)
    ] or [node]


_SCHEMA: dict[str, Any] = Protocol.model_json_schema(by_alias=True)


def _explain(item: Any) -> str:
    """One line of pydantic's findings, in our words."""
    location = tuple(key for key in item["loc"] if key not in (ONE, SEVERAL))
    where = json_path(location) or "The protocol"
    if item["type"] == "extra_forbidden":
        return f"{where} is not a key of a protocol; {suggest(str(location[-1]), keys_at(location[:-1]))}"
    if item["type"] in _MESSAGES:
        return f"{where} {_MESSAGES[item['type']]}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:].rstrip(".")
    return f"{where} is {json.dumps(item['input'], default=str)[:80]}; {message}."
