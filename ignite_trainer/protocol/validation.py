"""Validates a complete protocol, and reports every problem with its JSON path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ignite_trainer.protocol.sections import ONE, SEVERAL, LineSpec, Protocol, ScheduleSpec
from ignite_trainer.support.errors import ProtocolError, suggest

Location = tuple[str | int, ...]
"""Keys from the root of a protocol to a value; positions in a list are integers."""

_MESSAGES = {
    "missing": "is required.",
    "model_type": "must be a JSON object.",
    "dict_type": "must be a JSON object.",
    "list_type": "must be a JSON list.",
}
_MAX_RUNS = 2_000  # in a sweep; all are checked before the first one starts
_MAX_LABEL_BYTES = 150  # a file name has at most 255 bytes, and contains more than the label


def validate(raw: Mapping[str, Any], *, source: str | None = None) -> Protocol:
    """Check a complete protocol and freeze it.

    Raises:
        ProtocolError: The protocol is invalid. The error lists every problem with its JSON path, and suggests
            the closest key for a misspelt key.
    """
    try:
        protocol = Protocol.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ProtocolError(map(_explain, error.errors()), source=source) from None
    if problems := [*_section_problems(protocol), *_line_problems(protocol.lines)]:
        raise ProtocolError(problems, source=source)
    return protocol


def _section_problems(protocol: Protocol) -> list[str]:
    """List the contradictions between sections."""
    problems = []
    if protocol.optimizer is None and protocol.setup.epochs:
        problems.append(
            f"Optimizer is missing, but Setup.epochs is {protocol.setup.epochs}; add it or set Setup.epochs "
            "to 0."
        )
    if protocol.optimizer is None and protocol.scheduler:
        problems.append("Optimizer is missing, but Scheduler needs it; add Optimizer or remove Scheduler.")
    problems += _schedule_problems(protocol.schedules)
    if protocol.setup.patience is not None and not any(
        line.is_checkpoint for line in protocol.lines.values()
    ):
        problems.append(
            f"Setup.patience is {protocol.setup.patience}, but no metric shows whether training improves; "
            'set "is_checkpoint" to true for one, or Setup.patience to null.'
        )
    if protocol.setup.ema is not None and protocol.setup.swa is not None:
        problems.append(
            f"Setup.ema is {protocol.setup.ema} and Setup.swa is {protocol.setup.swa}, but only one average "
            "can be evaluated; set one of them to null."
        )
    if protocol.setup.patience is not None and protocol.setup.swa is not None:
        problems.append(
            f"Setup.swa is {protocol.setup.swa}, a share of all epochs, but Setup.patience is "
            f"{protocol.setup.patience}, which may end training before; average with Setup.ema, or set one "
            "of them to null."
        )
    if protocol.setup.samples_per_epoch is not None and protocol.setup.sampling != "balanced":
        problems.append(
            f"Setup.samples_per_epoch is {protocol.setup.samples_per_epoch}, but Setup.sampling is "
            f'"{protocol.setup.sampling}", which takes every sample once; set Setup.sampling to "balanced", '
            "or Setup.samples_per_epoch to null."
        )
    runs = math.prod(map(len, protocol.sweep.values()))
    if runs > _MAX_RUNS:
        problems.append(f"Sweep has {runs:,} combinations; at most {_MAX_RUNS:,} are allowed.")
    labels = [line.line_label for line in protocol.lines.values()]
    metric = protocol.table.metric
    if metric is not None and metric not in labels:
        problems.append(f'Table.metric is "{metric}", which is not a line_label; {suggest(metric, labels)}')
    return problems


def _schedule_problems(schedules: Mapping[str, ScheduleSpec]) -> list[str]:
    """List the problems in a sequence of schedulers."""
    paths, specs = list(schedules), list(schedules.values())
    problems = [
        f"{path}.lasts is {json.dumps(spec.lasts)}, but another scheduler follows; set it to a number of "
        f"{spec.interval}s."
        for path, spec in zip(paths[:-1], specs[:-1], strict=True)
        if not isinstance(spec.lasts, int)
    ]
    if len(specs) > 1 and isinstance(specs[-1].lasts, int):
        problems.append(
            f"{paths[-1]}.lasts is {specs[-1].lasts}, but the last scheduler runs until training ends; set "
            'it to "rest" or null.'
        )
    if len({spec.interval for spec in specs}) > 1:
        problems.append('Scheduler: all schedulers must have the same interval, either "epoch" or "step".')
    return problems


def _line_problems(lines: Mapping[str, LineSpec]) -> list[str]:
    """List the problems of the metric lines."""
    names = [line.file_name for line in lines.values()]
    problems = []
    for path, line in lines.items():
        if names.count(line.file_name) > 1:
            problems.append(
                f'{path}.line_label is "{line.line_label}"; another line has the same label apart from '
                "case and punctuation. Labels must be unique because they name log entries and files."
            )
        if len(line.file_name.encode()) > _MAX_LABEL_BYTES:
            problems.append(f"{path}.line_label is too long for a file name; shorten it.")
        if not (line.train or line.test):
            problems.append(
                f'{path} is not computed on any split; set "train" or "test" to true, or remove the line.'
            )
        elif line.update_rate == "iteration" and not line.train:
            problems.append(f'{path}.update_rate is "iteration", which needs "train": true.')
        if line.is_checkpoint and (line.update_rate == "iteration" or not line.test):
            problems.append(
                f"{path}.is_checkpoint is true, but checkpoints are chosen after each epoch, which needs "
                '"test": true and "update_rate": "epoch".'
            )
    return problems


def json_path(location: Location) -> str:
    """Format a location as a path, such as `Metrics.Performance.lines[0].class`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).lstrip(".")


def keys_at(location: Location) -> list[str]:
    """List the keys that the protocol defines for the object at this location; empty inside `args`."""
    return sorted({name for option in _options_at(location) for name in option.get("properties", {})})


def accepts_text(location: Location) -> bool:
    """Return whether the value at this location must be text or null."""
    kinds = _types_at(location)
    return "string" in kinds and kinds <= {"string", "null"}


def accepts_null(location: Location) -> bool:
    """Return whether null is a valid value at this location, as in `args` and for unknown keys."""
    kinds = _types_at(location)
    return not kinds or None in kinds or "null" in kinds


def accepts_object_or_list(location: Location) -> bool:
    """Return whether the value at this location may be an object or a list of objects."""
    return {"object", "array"} <= _types_at(location)


def _types_at(location: Location) -> set[str | None]:
    return {option.get("type") for option in _options_at(location)}


def _options_at(location: Location) -> list[dict[str, Any]]:
    """List the alternative schemas of the value at this location."""
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
    """List the alternatives in a schema node, such as null; follow references."""
    if "$ref" in node:
        return _options(_SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    return [
        option
        for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ()))
        for option in _options(alternative)
    ] or [node]


_SCHEMA: dict[str, Any] = Protocol.model_json_schema(by_alias=True)


def _explain(item: Any) -> str:
    """Rephrase an error from pydantic."""
    location = tuple(key for key in item["loc"] if key not in (ONE, SEVERAL))
    where = json_path(location) or "The protocol"
    if item["type"] == "extra_forbidden":
        return f"{where} is not a key of a protocol; {suggest(str(location[-1]), keys_at(location[:-1]))}"
    if item["type"] in _MESSAGES:
        return f"{where} {_MESSAGES[item['type']]}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:].rstrip(".")
    return f"{where} is {json.dumps(item['input'], default=str)[:80]}; {message}."
