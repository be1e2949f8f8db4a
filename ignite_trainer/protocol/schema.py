"""The typed protocol for editors; `python -m ignite_trainer.protocol.schema` writes `protocols/schema.json`.

Keys and values are those of `Protocol`; with them go the classes that are known, with their arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite_trainer.protocol.known_classes import KINDS, arguments, find_classes, kind_of
from ignite_trainer.protocol.reading import read_json
from ignite_trainer.protocol.sections import Protocol, SplitArgument

FILE_NAME = "schema.json"
PACKAGES = ("ignite_trainer", "model", "utils", "torch.optim", "torch.optim.lr_scheduler")
_OURS = ("ignite_trainer", "model", "utils")

# Which definition of the protocol's schema holds the classes of a section.
_HOLDERS = {
    "Scheduler": "ScheduleSpec",
    "Transforms": "TransformSpec",
    "Metrics": "LineSpec",
    "Evaluations": "EvaluationSpec",
}
# Sections that are lists, whose entries are never merged: an argument that their class needs must be there.
_LISTS = ("Transforms", "Metrics", "Reporters")
_ANNOTATIONS = ("description", "default", "examples")
Schema = dict[str, Any]


def make_schema(folder: Path, packages: Sequence[str] = PACKAGES) -> Schema:
    """Make the JSON Schema (draft 2020-12) of the protocols in a folder.

    Keys and values are checked alike in every protocol. Only in one that extends no other some keys are
    required: what an object leaves out, the protocol that is extended may supply.

    Args:
        folder: its protocols, and their defaults, name classes that are to be known.
        packages: the classes that these list are known, too; see `find_classes`.
    """
    whole = _without_titles(Protocol.model_json_schema(by_alias=True))
    definitions: Schema = {**whole.pop("$defs"), "Protocol": whole}
    whole["required"] = [name for name in whole["required"] if name != "Task"]  # the defaults supply it
    _add_classes(definitions, find_classes(packages, _classes_named_in(folder)))
    required = {**_required_in(whole, definitions), "if": whole["if"], "then": whole["then"]}
    for name in _reached("Protocol", definitions):
        definitions[name] = _as_layer(definitions[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Protocol",
        "description": "Written by python -m ignite_trainer.protocol.schema",
        "$ref": "#/$defs/Protocol",
        "if": {"required": ["extends"]},
        "else": required,
        "$defs": dict(sorted(definitions.items())),
    }


def to_text(schema: Schema) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write the schema into the folder it is of."""
    parser = argparse.ArgumentParser(prog="python -m ignite_trainer.protocol.schema", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("protocols"), help="of the protocols")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        dest="packages",
        metavar="PACKAGE",
        help="one more whose classes editors are to know",
    )
    flags = parser.parse_args(argv)
    path = flags.folder / FILE_NAME
    path.write_text(to_text(make_schema(flags.folder, (*PACKAGES, *flags.packages))), encoding="utf-8")
    print(path)
    return 0


def _classes_named_in(folder: Path) -> set[str]:
    """Dotted paths of classes in its files, and models that defaults are given for."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        if path.name == FILE_NAME:
            continue
        content = read_json(path)
        found.update(key for key in content if "." in key)
        found.update(_named(content))
    return found


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("class"), str):
            yield node["class"]
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from _named(each)


def _add_classes(definitions: Schema, classes: Mapping[str, type]) -> None:
    """Give each section its classes: their names, and for each of them its arguments."""
    by_section: dict[str, list[str]] = {section: [] for section in KINDS}
    required: dict[str, list[str]] = {}
    for path, one in classes.items():
        section = kind_of(one)
        if section is None:
            continue
        by_section[section].append(path)
        schema = arguments(one, supplied=KINDS[section].supplied, typed=path.split(".")[0] in _OURS)
        if section == "Dataset":
            schema["properties"] |= _loader_arguments(definitions)
        definitions[path] = schema
        needed = schema.pop("required", [])
        required[path] = needed if section in _LISTS else []
    for section, paths in by_section.items():
        name = _HOLDERS.get(section, section)
        definitions[name] = _of_classes(
            definitions[name if name in definitions else "ClassSpec"], paths, required
        )
        if section not in _HOLDERS:
            properties = definitions["Protocol"]["properties"]
            own = json.dumps(properties[section]).replace("/ClassSpec", f"/{section}")
            properties[section] = json.loads(own)
    del definitions["ClassSpec"]


def _loader_arguments(definitions: Schema) -> Schema:
    """Arguments in `Dataset.args` that are the loader's."""
    definitions["SplitArgument"] = _without_titles(SplitArgument.model_json_schema(by_alias=True))
    for key in ("$defs", "required"):
        definitions["SplitArgument"].pop(key, None)
    return {
        "dl_shuffle": {"type": "boolean", "default": True, "description": "Shuffle the training split."},
        "training": {"$ref": "#/$defs/SplitArgument"},
    }


def _of_classes(spec: Schema, paths: Sequence[str], required: Mapping[str, Sequence[str]]) -> Schema:
    known = {**spec["properties"]["class"], "examples": list(paths)}
    return {
        **spec,
        "properties": {**spec["properties"], "class": known},
        "allOf": [
            *spec.get("allOf", ()),
            *(
                {
                    "if": {"properties": {"class": {"const": path}}, "required": ["class"]},
                    "then": _arguments_of(path, required[path]),
                }
                for path in paths
            ),
        ],
    }


def _arguments_of(path: str, required: Sequence[str]) -> Schema:
    there = {"$ref": f"#/$defs/{path}"}
    if not required:
        return {"properties": {"args": there}}
    return {"properties": {"args": {**there, "required": list(required)}}, "required": ["args"]}


def _reached(name: str, definitions: Schema) -> set[str]:
    """The definitions of objects that are merged where one protocol extends another: those in no list."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(definitions[name])
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _references(each)
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[-1]
        for key, each in node.items():
            if key not in {"items", "allOf"}:
                yield from _references(each)


def _required_in(node: Schema, definitions: Schema) -> Schema:
    """The keys that an object, and the objects in it, must have, as a schema; lists keep their own."""
    if "$ref" in node:
        return _required_in(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    found: Schema = {}
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        found |= _required_in(option, definitions)
    inside = {key: _required_in(value, definitions) for key, value in node.get("properties", {}).items()}
    if inside := {key: value for key, value in inside.items() if value}:
        found["properties"] = inside
    others = node.get("additionalProperties")
    if isinstance(others, dict) and (of_others := _required_in(others, definitions)):
        found["additionalProperties"] = of_others
    if "required" in node:
        found["required"] = node["required"]
    return found


def _as_layer(node: Schema) -> Schema:
    """An object that may leave out any key, and take away by null what another protocol has there."""
    layer = {key: value for key, value in node.items() if key not in {"required", "if", "then"}}
    if "properties" in node:
        layer["properties"] = {key: _or_null(value) for key, value in node["properties"].items()}
    if isinstance(node.get("additionalProperties"), dict):
        layer["additionalProperties"] = _or_null(node["additionalProperties"])
    return layer


def _or_null(node: Schema) -> Schema:
    node, nothing = _as_layer(node), {"type": "null"}
    if nothing in node.get("anyOf", ()):
        return node
    annotations = {key: node.pop(key) for key in _ANNOTATIONS if key in node}
    return {**annotations, "anyOf": [node, nothing]}


def _without_titles(node: Any) -> Any:
    """Drop the titles that pydantic makes of names."""
    if isinstance(node, list):
        return [_without_titles(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_titles(each) for key, each in node.items() if not _is_title(key, each)}


def _is_title(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
