"""Loads a protocol from its file and the command line, and traces the origin of each value."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite_trainer.protocol.overrides import Override, apply_overrides, sweep_conflicts
from ignite_trainer.protocol.reading import SCHEMA_KEY, flatten, read_json, read_layers
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import Location, json_path, validate
from ignite_trainer.support.errors import ProtocolError, suggest


class Value(NamedTuple):
    """A value in a protocol, and the flag or file that sets it."""

    path: str
    value: Any
    origin: str


def load(path: Path, overrides: Sequence[Override] = (), *, defaults: Path) -> Protocol:
    """Read a protocol file, apply overrides and the defaults of its model, and validate it.

    Args:
        path: protocol file.
        overrides: overrides on the command line.
        defaults: file with default sections by `Model.class`, for protocols that lack these sections.

    Raises:
        ProtocolError: The protocol is invalid. The error lists every problem.
    """
    by_model = read_json(defaults)
    layers = read_layers(path)
    raw = flatten(layers)
    if SCHEMA_KEY in layers[-1].content and SCHEMA_KEY not in raw:
        schema = Path(os.path.relpath(defaults.with_name("schema.json"), path.parent)).as_posix()
        logging.getLogger(__name__).warning(
            '%s: "$schema" is "%s", but that file does not exist, so editors cannot complete keys. '
            'Write "$schema": "%s".',
            *(path, layers[-1].content[SCHEMA_KEY], schema),
        )
    # The model's class determines the defaults, which other overrides may change.
    of_model = [override for override in overrides if override.location[0] == "Model"]
    raw, problems = apply_overrides(raw, of_model)
    raw = supply_defaults(raw, by_model)
    raw, more = apply_overrides(raw, [override for override in overrides if override not in of_model])
    problems += [*more, *sweep_conflicts(raw, overrides)]
    try:
        protocol = validate(raw, source=str(path))
    except ProtocolError as error:
        problems += error.problems if "Task" in raw else _explain_missing_task(error.problems, raw, by_model)
    if problems:
        raise ProtocolError(problems, source=str(path))
    return protocol


def supply_defaults(raw: Mapping[str, Any], by_model: Mapping[str, Any]) -> dict[str, Any]:
    """Add default sections for the model's class that the protocol lacks."""
    defaults: Mapping[str, Any] = by_model.get(_model_class(raw), {})
    return {**defaults, **raw}


def trace(protocol: Protocol, path: Path, overrides: Sequence[Override], *, defaults: Path) -> list[Value]:
    """List the values in a protocol, in order; an empty list or object counts as a value.

    Args:
        protocol: result of `load` with the other arguments.
        path: protocol file.
        overrides: overrides on the command line.
        defaults: file with default sections by `Model.class`.
    """
    content = protocol.to_json()
    layers = read_layers(path)
    supplied = read_json(defaults).get(protocol.model.path, {})

    def origin(location: Location) -> str:
        for override in reversed(overrides):
            if _sets(override, location, content):
                return override.flag
        for layer in layers[::-1]:
            if _has(layer.content, location):
                return layer.path.name
        in_files = any(location[0] in layer.content for layer in layers)
        return defaults.name if not in_files and _has(supplied, location) else "default"

    return [Value(json_path(location), value, origin(location)) for location, value in _leaves(content)]


def _model_class(raw: Mapping[str, Any]) -> str:
    model = raw.get("Model")
    name = model.get("class") if isinstance(model, dict) else None
    return str(name)


def _explain_missing_task(
    problems: list[str], raw: Mapping[str, Any], by_model: Mapping[str, Any]
) -> list[str]:
    """Replace "Task is required" by the reason: defaults.json has no task for the model's class."""
    model = _model_class(raw)
    hint = f"Task is missing, and there is no default for Model.class {model}; {suggest(model, by_model)}"
    return [*(problem for problem in problems if not problem.startswith("Task ")), hint]


def _leaves(node: Any, location: Location = ()) -> Iterator[tuple[Location, Any]]:
    children: Mapping[Any, Any] = {}
    if isinstance(node, dict):
        children = node
    elif isinstance(node, list) and any(isinstance(each, dict | list) for each in node):
        children = dict(enumerate(node))
    if not children:
        yield location, node
    for key, child in children.items():
        yield from _leaves(child, (*location, key))


def _has(content: Any, location: Location) -> bool:
    try:
        for key in location:
            content = content[key]
    except (LookupError, TypeError):
        return False
    return True


def _sets(override: Override, location: Location, content: Any) -> bool:
    """Return whether an override sets the value at a location, or an object or list that contains it."""
    section, *keys = override.location
    flag = (section, ".".join(keys)) if section == "Sweep" and keys else override.location
    if len(flag) > len(location):
        return False
    for word, key in zip(flag, location, strict=False):
        if word != key and not (isinstance(key, int) and int(word) % len(content) == key):
            return False
        content = content[key]
    return True
