"""Where each value of a resolved protocol comes from: a flag, a file, the defaults of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite_trainer.protocol.extending import Layer
from ignite_trainer.protocol.overrides import Override
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import json_path

Location = tuple[str | int, ...]


class Value(NamedTuple):
    """One value of a protocol: its JSON path, itself, and who says so."""

    path: str
    value: Any
    origin: str


def trace(
    protocol: Protocol,
    layers: Sequence[Layer],
    overrides: Sequence[Override],
    *,
    defaults: Path,
    by_model: Mapping[str, Any],
) -> list[Value]:
    """List the values of a protocol in its order; an empty list or object is a value.

    Args:
        protocol: as it was resolved from all of the others.
        layers: what its files say, that of the protocol itself last.
        overrides: of the command line.
        defaults: the file that has what models supply.
        by_model: its content.
    """
    supplied = by_model.get(protocol.model.path, {})

    def origin(location: Location) -> str:
        for override in reversed(overrides):
            if _covers(override.location, location, protocol.to_json()):
                return override.flag
        for layer in reversed(layers):
            if _has(layer.content, location):
                return layer.path.name
        in_files = any(location[0] in layer.content for layer in layers)
        return defaults.name if not in_files and _has(supplied, location) else "default"

    return [
        Value(json_path(location), value, origin(location)) for location, value in _leaves(protocol.to_json())
    ]


def _leaves(node: Any, location: Location = ()) -> Iterator[tuple[Location, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    scalars = isinstance(node, list) and not any(isinstance(each, dict | list) for each in node)
    if not keys or scalars:
        yield location, node
        return
    for key in keys:
        yield from _leaves(node[key], (*location, key))


def _has(content: Any, location: Location) -> bool:
    for key in location:
        known = (
            content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
        )
        if key not in known:
            return False
        content = content[key]
    return True


def _covers(flag: tuple[str, ...], location: Location, content: Any) -> bool:
    """Whether a flag gives the value at a location, or all of an object or list that holds it."""
    if flag[0] == "Sweep" and len(flag) > 1:
        flag = ("Sweep", ".".join(flag[1:]))
    if len(flag) > len(location):
        return False
    for said, key in zip(flag, location, strict=False):
        if isinstance(key, int) and int(said) % len(content) != key:
            return False
        if isinstance(key, str) and said != key:
            return False
        content = content[key]
    return True
