"""`protocols/schema.json`, the typed protocol for editors: `python -m ignite_trainer.schema` writes it.

Keys and values are those of `Protocol`; with them go the classes that are known, with their arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite_trainer.known_classes import KINDS, arguments, find_classes, kind_of
from ignite_trainer.protocol import Protocol, SplitArgument
from ignite_trainer.validation import read_json

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
_EXTENDING = "Extending."
Schema = dict[str, Any]


def make_schema(folder: Path, packages: Sequence[str] = PACKAGES) -> Schema:
    """The JSON Schema (draft 2020-12) of the protocols in a folder.

    Args:
        folder: classes that its protocols and their defaults name are among those that are known.
        packages: the others are those that these packages list, see `find_classes`.
    """
    whole = _without_titles(Protocol.model_json_schema(by_alias=True))
    definitions: Schema = {**whole.pop("$defs"), "Protocol": whole}
    whole["required"] = [name for name in whole["required"] if name != "Task"]  # the defaults supply it
    _add_classes(definitions, find_classes(packages, _classes_named_in(folder)))
    for name in _reached("Protocol", definitions):
        definitions[_EXTENDING + name] = _loosened(definitions[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Protocol",
        "description": "Written by python -m ignite_trainer.schema",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"#/$defs/{_EXTENDING}Protocol"},
        "else": {"$ref": "#/$defs/Protocol"},
        "$defs": dict(sorted(definitions.items())),
    }


def to_text(schema: Schema) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write the schema into the folder it is of."""
    parser = argparse.ArgumentParser(prog="python -m ignite_trainer.schema", description=__doc__)
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
        required[path] = schema.pop("required", [])
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


def _loosened(node: Schema) -> Schema:
    """An object's definition where another protocol supplies what it leaves out: null takes that away."""
    # What a part implies of another is seen in the whole alone.
    loose = {key: value for key, value in node.items() if key not in {"required", "if", "then"}}
    if "properties" in node:
        loose["properties"] = {key: _loosened_value(value) for key, value in node["properties"].items()}
    if isinstance(node.get("additionalProperties"), dict):
        loose["additionalProperties"] = _loosened_value(node["additionalProperties"])
    if "allOf" in node:
        loose["allOf"] = [{**rule, "then": _optional(rule["then"])} for rule in node["allOf"]]
    return loose


def _optional(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: _optional(value) for key, value in node.items() if key != "required"}


def _loosened_value(node: Schema) -> Schema:
    nothing = {"type": "null"}
    node = _loosened(node)
    if "$ref" in node:
        about = {key: value for key, value in node.items() if key != "$ref"}
        return {**about, "anyOf": [_relinked({"$ref": node["$ref"]}), nothing]}
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in node:
            options = [_loosened_option(option) for option in node[alternatives]]
            return {**node, alternatives: options if nothing in options else [*options, nothing]}
    if "enum" in node:
        node["enum"] = [*node["enum"], None]
    if isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]
    return node


def _loosened_option(node: Schema) -> Schema:
    if "oneOf" in node:
        return {**node, "oneOf": [_loosened_option(option) for option in node["oneOf"]]}
    return _relinked(node) if "items" not in node else node


def _relinked(node: Schema) -> Schema:
    """The node with a loosened definition in place of the strict one."""
    return {
        key: value.replace("#/$defs/", f"#/$defs/{_EXTENDING}") if key == "$ref" else value
        for key, value in node.items()
    }


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
