"""What makes two protocols one experiment: equal variants may be averaged, equal purposes are one sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue as Json

from ignite_trainer.api import self_description
from ignite_trainer.api.affects import Affects
from ignite_trainer.protocol.sections import LineSpec, Protocol, Setup
from ignite_trainer.protocol.validation import json_path

_DEFINITION = {"path", "args", "best"}

Classes = Mapping[str, type]
"""Classes of `Dataset` and `Model`, by section; one that is left out says nothing of its arguments."""


def variant(protocol: Protocol, classes: Classes = MappingProxyType({})) -> str:
    """Tell experiments apart: 12 hexadecimal digits of what `identity` says."""
    return digest(identity(protocol, classes))


def identity(protocol: Protocol, classes: Classes = MappingProxyType({})) -> dict[str, Any]:
    """Say what is computed, as JSON types: equal for protocols whose figures may be averaged.

    That is what affects the result and, as `Metric`, the definition of the metric that tables show. What
    affects training does not count where there are no epochs.
    """
    counted = {Affects.RESULT, Affects.TRAINING} if protocol.setup.epochs else {Affects.RESULT}
    content = selected(protocol, counted, classes)
    shown = shown_line(protocol)
    content["Metric"] = shown.model_dump(mode="json", by_alias=True, include=_DEFINITION) if shown else None
    return content


def purpose(protocol: Protocol, classes: Classes = MappingProxyType({})) -> str:
    """Tell sweeps apart: 12 hexadecimal digits, equal for two whose runs reach the same figures."""
    return digest(selected(protocol, set(Affects) - {Affects.FORM, Affects.HANDLING}, classes))


def selected(protocol: Protocol, effects: Container[Affects], classes: Classes) -> dict[str, Any]:
    """Return the keys of a protocol that have one of these effects, as JSON types."""

    def select(content: Mapping[str, Any], known: Mapping[str, Affects]) -> dict[str, Any]:
        return {key: value for key, value in content.items() if known.get(key, Affects.RESULT) in effects}

    content = select(protocol.to_json(), Protocol.affects())
    content["Setup"] = select(content["Setup"], Setup.affects())
    for section in ("Dataset", "Model"):
        known = self_description.affects(classes.get(section))
        content[section]["args"] = select(content[section]["args"], known)
    return content


def digest(content: Any) -> str:
    """Hash JSON types, whatever the order of their keys: 12 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shown_line(protocol: Protocol) -> LineSpec | None:
    """Return the metric that tables show: the one named, else the first of checkpoints, else the first."""
    lines = list(protocol.lines.values())
    named = [line for line in lines if line.line_label == protocol.table.metric]
    return next(iter([*named, *(line for line in lines if line.is_checkpoint), *lines]), None)


def values_by_path(content: Json, location: tuple[str | int, ...] = ()) -> dict[str, Json]:
    """Return the values inside JSON content by their paths; empty objects and lists have none."""
    if not isinstance(content, dict | list):
        return {json_path(location): content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {
        path: value
        for step, inner in items
        for path, value in values_by_path(inner, (*location, step)).items()
    }
