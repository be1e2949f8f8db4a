"""Expands a sweep into its runs: one protocol for every combination of values, all checked at once."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue as Json

from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.identity import digest
from ignite_trainer.protocol.overrides import find_place, split_key
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import json_path, validate
from ignite_trainer.results.run_folder import slug
from ignite_trainer.runs.construction import try_out
from ignite_trainer.support.errors import ProtocolError

Location = tuple[str | int, ...]

# Keys that cannot be swept, with the reasons.
_FIXED: dict[Location, str] = {
    ("Sweep",): "a sweep cannot contain a sweep",
    ("Setup", "saved_models_path"): "all runs of a sweep share one folder",
    ("Setup", "name"): "all runs of a sweep share one folder",
    ("Visdom",): "the dashboard does not affect results",
    ("Reporters",): "reporters do not affect results",
}
_MAX_VALUE_LENGTH = 40  # characters in a folder's name


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One run of a sweep.

    Attributes:
        name: name of the run's folder, such as "fold-3_seed-1".
        values: value of each swept key, such as `Dataset.args.fold`.
        blueprint: protocol with these values and without a `Sweep`, and its classes.
    """

    name: str
    values: dict[str, Json]
    blueprint: Blueprint


def combinations(
    protocol: Protocol,
    *,
    trusted: Iterable[str] = (),
    source: str | None = None,
    building: bool = True,
) -> tuple[Combination, ...]:
    """List the runs of a sweep; the last key varies fastest.

    Args:
        protocol: a validated protocol with a `Sweep`.
        trusted: additional packages whose classes the protocol may name.
        source: file of the protocol, for error messages.
        building: True to test that everything except the model and decoded data can be built.

    Raises:
        ProtocolError: Lists the problems in all combinations, without repetitions.
    """
    base = {**protocol.to_json(), "Sweep": {}}
    locations = _locate_keys(base, protocol.sweep, source=source)
    keys = [json_path(location) for location in locations]
    rows = list(itertools.product(*protocol.sweep.values()))
    problems: list[str] = []
    tried: set[str] = set()
    found = []
    for name, row in zip(_names(locations, rows), rows, strict=True):
        raw = copy.deepcopy(base)
        for key, value in zip(protocol.sweep, row, strict=True):
            parent, step, _ = find_place(raw, split_key(key), written=key)
            parent[step] = value
        try:
            blueprint = draw(validate(raw), trusted=trusted)
            if building:
                _try_out(blueprint, tried)
            values = dict(zip(keys, row, strict=True))
            found.append(Combination(name=name, values=values, blueprint=blueprint))
        except ProtocolError as error:
            problems += error.problems
    if problems:
        raise ProtocolError(dict.fromkeys(problems), source=source)
    return tuple(found)


def is_fold(key: str) -> bool:
    """Return whether a swept key selects the held-out fold."""
    return key.endswith(".fold")


def _try_out(blueprint: Blueprint, tried: set[str]) -> None:
    """Build the parts that are quick to build, unless equal ones have been `tried` before."""
    content = blueprint.protocol.to_json()
    setup = blueprint.protocol.setup.model_dump(exclude={"seed"})  # such as sampling, which needs labels
    key = digest([setup, *(content[name] for name in ("Dataset", "Transforms", "Task", "Evaluations"))])
    if key not in tried:
        tried.add(key)
        try_out(blueprint)


def _locate_keys(base: dict[str, Any], sweep: dict[str, list[Json]], *, source: str | None) -> list[Location]:
    """Return the location of each key; raise a ProtocolError that lists invalid keys and values."""
    locations: list[Location] = []
    problems: list[str] = []
    for key, values in sweep.items():
        try:
            location = find_place(copy.deepcopy(base), split_key(key), written=f"Sweep.{key}").location
        except ProtocolError as error:
            problems += error.problems
            continue
        problems += [
            f"Sweep.{key} cannot be swept: {reason}; remove it."
            for fixed, reason in _FIXED.items()
            if _overlap(location, fixed)
        ]
        problems += [
            f"Sweep.{key} and Sweep.{json_path(other)} overlap; keep one of them."
            for other in locations
            if _overlap(location, other)
        ]
        locations.append(location)
        texts = [json.dumps(value) for value in values]
        repeated = sorted({text for text in texts if texts.count(text) > 1})
        problems += [f"Sweep.{key} lists {text} more than once; keep one." for text in repeated]
    if problems:
        raise ProtocolError(problems, source=source)
    return locations


def _overlap(first: Location, second: Location) -> bool:
    return all(ours == theirs for ours, theirs in zip(first, second, strict=False))


def _names(locations: Sequence[Location], rows: Sequence[Sequence[Json]]) -> list[str]:
    """Return a folder name for each row; the names differ even if case is ignored."""
    lasts = [location[-1] for location in locations]
    labels = [
        str(last) if isinstance(last, str) and lasts.count(last) == 1 else slug(json_path(location))
        for last, location in zip(lasts, locations, strict=True)
    ]
    names: list[str] = []
    taken: set[str] = set()
    for row in rows:
        name = slug(
            "_".join(f"{label}-{_value_name(value)}" for label, value in zip(labels, row, strict=True))
        )
        numbered = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
        name = next(candidate for candidate in numbered if candidate.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _value_name(value: Json) -> str:
    """Write a value as part of a folder's name; numbers keep their sign and exponent."""
    if isinstance(value, list):
        text = "-".join(map(_value_name, value))
    elif isinstance(value, int | float):
        text = json.dumps(value).replace("e+", "e")  # a slug would turn 1e+30 into 1e-30
    else:
        text = slug(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _MAX_VALUE_LENGTH else digest(value)
