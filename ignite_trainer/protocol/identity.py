"""Identity of experiments, for averaging runs, grouping them in sweeps, and resuming them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue as Json

from ignite_trainer.api.affects import Affects
from ignite_trainer.protocol.instantiate import resolve
from ignite_trainer.protocol.sections import LineSpec, ParameterRule, Protocol, PublishedResult
from ignite_trainer.protocol.setup_section import Section, Setup
from ignite_trainer.protocol.validation import Location, json_path
from ignite_trainer.support.errors import ProtocolError

_DEFINITION = {"path", "args", "best"}

_LATER_IN_SETUP = ("patience", "swa", "sampling", "samples_per_epoch")
_LATER_IN_PUBLISHED = ("name", "decimals", "source", "measured_by")
_LATER_IN_PARAMETERS = ("depth_decay", "weight_decay_of", "max_gradient_norm")
"""Keys that the digests of earlier versions lack."""

Classes = Mapping[str, type]
"""Classes of `Dataset` and `Model`, by section. All arguments of a missing class affect the result."""


def identity(protocol: Protocol, classes: Classes = MappingProxyType({})) -> dict[str, Any]:
    """Return everything that affects the result, as JSON types; runs with equal identities may be averaged.

    This includes the definition of the metric that tables show, under `Metric`. Keys that affect training
    count only if the protocol has epochs.
    """
    counted = {Affects.RESULT, Affects.TRAINING} if protocol.setup.epochs else {Affects.RESULT}
    content = selected(protocol, counted, classes)
    shown = shown_line(protocol)
    content["Metric"] = shown.model_dump(mode="json", by_alias=True, include=_DEFINITION) if shown else None
    return content


def purpose(protocol: Protocol, classes: Classes) -> str:
    """Return a digest that is equal for sweeps with equal results."""
    return digest(selected(protocol, set(Affects) - {Affects.FORM, Affects.HANDLING}, classes))


def selected(protocol: Protocol, effects: Container[Affects], classes: Classes) -> dict[str, Any]:
    """Return the keys of a protocol that have one of these effects, as JSON types."""

    def select(content: Mapping[str, Any], known: Mapping[str, Affects]) -> dict[str, Any]:
        return {key: value for key, value in content.items() if known.get(key, Affects.RESULT) in effects}

    content = select(protocol.to_json(), Protocol.affects())
    content["Setup"] = select(content["Setup"], Setup.affects())
    _remove_unused(content["Setup"], _LATER_IN_SETUP, Setup)
    for published in content.get("Table", {}).get("published", ()):
        _remove_unused(published, _LATER_IN_PUBLISHED, PublishedResult)
    for rule in content.get("Parameters", ()):
        _remove_unused(rule, _LATER_IN_PARAMETERS, ParameterRule)
    for section in ("Dataset", "Model"):
        own_affects = getattr(classes.get(section), "affects", {})
        known = {name: Affects(effect) for name, effect in own_affects.items()}
        content[section]["args"] = select(content[section]["args"], known)
    return content


def _remove_unused(content: dict[str, Any], keys: Iterable[str], section: type[Section]) -> None:
    """Remove keys that have their defaults, so that digests equal those of versions without these keys."""
    for key in keys:
        if content.get(key) == section.model_fields[key].default:
            content.pop(key, None)


def classes_of(protocol: Protocol) -> Classes:
    """Import the classes of `Dataset` and `Model` in a saved protocol, without untrusted classes."""
    found: dict[str, type] = {}
    for section, spec in (("Dataset", protocol.dataset), ("Model", protocol.model)):
        with contextlib.suppress(ProtocolError):
            found[section] = resolve(spec, object, where=section)
    return found


def digest(content: Any) -> str:
    """Hash JSON types to 12 hexadecimal digits, regardless of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shown_line(protocol: Protocol) -> LineSpec | None:
    """Return the metric for tables: `Table.metric`, or else the first with is_checkpoint, or the first."""
    lines = list(protocol.lines.values())
    named = [line for line in lines if line.line_label == protocol.table.metric]
    return next(iter([*named, *(line for line in lines if line.is_checkpoint), *lines]), None)


def values_by_path(content: Json, location: Location = ()) -> dict[str, Json]:
    """Return the values in JSON content by path; empty objects and lists have no values."""
    if not isinstance(content, dict | list):
        return {json_path(location): content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {
        path: value
        for step, inner in items
        for path, value in values_by_path(inner, (*location, step)).items()
    }
