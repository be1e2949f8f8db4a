"""`"extends": "other.json"`: a protocol that says what differs from another, made whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite_trainer.protocol.validation import read_json, takes_null
from ignite_trainer.support.errors import ProtocolError

Location = tuple[str | int, ...]

_KEY = "extends"
_SCHEMA = "$schema"


@dataclass(frozen=True)
class Layer:
    """What one file says.

    Attributes:
        path: of the file.
        content: of it, but for `extends`.
    """

    path: Path
    content: Mapping[str, Any]


def read_protocol(path: Path) -> dict[str, Any]:
    """Read a protocol, and whatever it extends, as one that extends nothing; see `read_layers`, `flatten`."""
    return flatten(read_layers(path))


def read_layers(path: Path) -> list[Layer]:
    """Read a protocol and all files it extends; the one that extends nothing is first.

    Raises:
        ProtocolError: a file cannot be read, `extends` names none, or leads back; with the files on the way.
    """
    layers: list[Layer] = []
    chain = [path]
    while True:
        content = _read(chain)
        base = content.pop(_KEY, None)
        layers.insert(0, Layer(chain[-1], content))
        if base is None:
            return layers
        if not isinstance(base, str) or not base:
            raise ProtocolError(
                f"extends is {json.dumps(base)}; write the path of a protocol, relative to this file.",
                source=_way(chain),
            )
        following = chain[-1].parent / base
        if following.resolve() in {earlier.resolve() for earlier in chain}:
            raise ProtocolError(
                "extends leads back to a file on the way; name another one, or none.",
                source=_way([*chain, following]),
            )
        chain.append(following)


def flatten(layers: list[Layer]) -> dict[str, Any]:
    """Put what each file says over what those before it say.

    Objects are merged key by key, but for one that names another `class`: that begins anew, since arguments
    of the class before are none of it. Lists and values are replaced. null is a value where a key takes it
    (and in the arguments of classes); elsewhere it takes away what stood there. `$schema` becomes an absolute
    path, so that what is saved of the protocol has it wherever it lies, or is left out if no file is there.
    """
    first, *others = layers
    result = dict(first.content)
    for layer in others:
        result = _merged(result, layer.content, ())
    if isinstance(result.get(_SCHEMA), str):
        del result[_SCHEMA]
        found = [schema for layer in layers if (schema := _schema_of(layer))]
        result |= {_SCHEMA: found[-1]} if found else {}
    return result


def lost_schema(layer: Layer) -> str | None:
    """Return the `$schema` of a file if it names a file that is not there, as in a copy in another folder."""
    named = layer.content.get(_SCHEMA)
    return named if isinstance(named, str) and named and not _schema_of(layer) else None


def _schema_of(layer: Layer) -> str | None:
    """An address, or the absolute path of a file that is there."""
    named = layer.content.get(_SCHEMA)
    if not isinstance(named, str) or "://" in named:
        return named if isinstance(named, str) else None
    try:
        path = (layer.path.parent / named).resolve()
        return str(path) if path.is_file() else None
    except OSError:  # in a folder that this user may not look into, say
        return None


def _merged(base: Mapping[str, Any], change: Mapping[str, Any], location: Location) -> dict[str, Any]:
    result = dict(base)
    for key, value in change.items():
        where = (*location, key)
        if value is None and not takes_null(where):
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merged(_kept(base.get(key), value), value, where)
        else:
            result[key] = value
    return result


def _kept(base: Any, change: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a base a change is merged into: all of an object, unless it is of another class."""
    if not isinstance(base, dict) or (
        "class" in base and change.get("class", base["class"]) != base["class"]
    ):
        return {}
    return base


def _read(chain: list[Path]) -> dict[str, Any]:
    try:
        return read_json(chain[-1])
    except ProtocolError as error:
        raise ProtocolError(error.problems, source=_way(chain)) from error


def _way(chain: list[Path]) -> str:
    """The files from the one that was asked for to the last, as "a.json extends b.json"."""
    return " extends ".join(map(str, chain))
