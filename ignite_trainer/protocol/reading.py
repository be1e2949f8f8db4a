"""Reads protocol files as plain JSON: strict parsing, comments, and `extends`."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite_trainer.protocol.validation import Location, accepts_null
from ignite_trainer.support.errors import ProtocolError

SCHEMA_KEY = "$schema"
_EXTENDS_KEY = "extends"
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_COMMENT = re.compile(rf"({_STRING})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(rf'({_STRING}|[^\s\[{{:,"])(\s*),(?=\s*[\]}}])|{_STRING}', re.DOTALL)


class Layer(NamedTuple):
    """The content of one protocol file, without `extends`."""

    path: Path
    content: Mapping[str, Any]


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON (a json.JSONDecodeError, with the position), or contains a repeated
            key or a non-finite number.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def without_comments(text: str) -> str:
    """Replace `//` and `/* */` comments and trailing commas by spaces, which preserves lines and columns."""
    text = _COMMENT.sub(lambda match: match[1] or re.sub(r"[^\n]", " ", match[0]), text)
    return _TRAILING_COMMA.sub(lambda match: f"{match[1]}{match[2]} " if match[1] else match[0], text)


def read_json(path: Path, *, source: str | None = None) -> dict[str, Any]:
    """Read one protocol file, which may have comments, trailing commas and a byte order mark.

    Args:
        path: path of the file.
        source: name of the file in messages, by default its path.

    Raises:
        ProtocolError: The file cannot be read, or is not a JSON object. The error names the line and column.
    """
    try:
        content = path.read_bytes()
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes it
        raw = parse(without_comments(content.decode("utf-16" if is_utf_16 else "utf-8-sig")))
    except FileNotFoundError:
        problem = "there is no such file."
    except OSError as error:
        problem = f"cannot be read: {error}"
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = (
            f"cannot be read: line {line} is not {error.encoding} ({error.reason}); save the file as UTF-8."
        )
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}."
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(raw, dict):
            return raw
        problem = "a protocol must be a JSON object."
    raise ProtocolError(problem, source=source or str(path))


def read_layers(path: Path, *, extended_by: Sequence[Path] = ()) -> list[Layer]:
    """Read a protocol and all files that it extends, in order from the base to the protocol.

    Raises:
        ProtocolError: A file cannot be read, or `extends` is not a path or is circular. The error lists
            every file in the chain.
    """
    chain = [*extended_by, path]
    source = " extends ".join(map(str, chain))
    if path.resolve() in {earlier.resolve() for earlier in extended_by}:
        raise ProtocolError(
            "extends leads back to a file in this chain; extend another file, or none.", source=source
        )
    content = read_json(path, source=source)
    base = content.pop(_EXTENDS_KEY, None)
    layer = Layer(path, content)
    if base is None:
        return [layer]
    if not isinstance(base, str) or not base:
        raise ProtocolError(
            f"extends is {json.dumps(base)}; write the path of a protocol, relative to this file.",
            source=source,
        )
    return [*read_layers(path.parent / base, extended_by=chain), layer]


def flatten(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge each layer into those before it.

    Objects are merged key by key. If both objects name a `class` and the classes differ, however, the later
    object replaces the earlier one, whose arguments belong to another class. Lists and values are replaced.
    null is a value for keys that accept null and in the arguments of classes; otherwise, it removes the key.
    The path in `$schema` becomes absolute, or is dropped if the file does not exist.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        result = _merged(result, layer.content, ())
        schema = result.get(SCHEMA_KEY)
        if SCHEMA_KEY in layer.content and isinstance(schema, str) and "://" not in schema:
            result[SCHEMA_KEY] = str((layer.path.parent / schema).resolve())
            if not os.path.isfile(result[SCHEMA_KEY]):  # noqa: PTH113 - Path raises for unreadable folders
                del result[SCHEMA_KEY]
    return result


def read_protocol(path: Path) -> dict[str, Any]:
    """Read a protocol, merged with all files that it extends."""
    return flatten(read_layers(path))


def _merged(base: Mapping[str, Any], change: Mapping[str, Any], location: Location) -> dict[str, Any]:
    result = dict(base)
    for key, value in change.items():
        where = (*location, key)
        if value is None and not accepts_null(where):
            result.pop(key, None)
        elif isinstance(value, dict):
            old: Any = base.get(key)
            if not isinstance(old, dict) or (
                "class" in old and value.get("class", old["class"]) != old["class"]
            ):
                old = {}
            result[key] = _merged(old, value, where)
        else:
            result[key] = value
    return result


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key "{key}" appears twice in one object; keep one.')
        found[key] = value
    return found


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not a JSON number; write a finite number or null.")
    return float(number)
