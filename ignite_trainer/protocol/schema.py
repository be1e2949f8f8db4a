"""JSON Schema of protocols for editors; `python -m ignite_trainer.protocol.schema` writes it.

It contains the keys and values of `Protocol`, and the known classes with their arguments.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from ignite_trainer.protocol.blueprint import KINDS
from ignite_trainer.protocol.reading import read_json
from ignite_trainer.protocol.sections import Protocol, SplitArgument

FILE_NAME = "schema.json"
PACKAGES = (
    *("ignite_trainer", "ignite_trainer.training.schedules", "model", "utils"),
    *("torch.optim", "torch.optim.lr_scheduler"),
)
_OURS = ("ignite_trainer", "model", "utils")

# Definitions in the protocol's schema that contain the classes of a section.
_HOLDERS = {
    "Scheduler": "ScheduleSpec",
    "Transforms": "TransformSpec",
    "Metrics": "LineSpec",
    "Evaluations": "EvaluationSpec",
}
# Sections that are lists. Entries are never merged, so they must have all required arguments.
_LISTS = ("Transforms", "Metrics", "Reporters")
# Definitions of objects in lists and in `args`, which are never merged either.
_COMPLETE = ("TransformSpec", "LineSpec", "Reporters", "ParameterRule", "PublishedResult", "SplitArgument")
_ANNOTATIONS = ("description", "default", "examples")
_ARGUMENTS = re.compile(r"^ *Args:\n((?:(?: {4,}.*)?\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): (.*)", re.DOTALL)
Schema = dict[str, Any]


def make_schema(folder: Path, packages: Sequence[str] = PACKAGES) -> Schema:
    """Make the JSON Schema (draft 2020-12) of the protocols in a folder.

    Keys are required only in protocols that do not extend another protocol, which may supply them.

    Args:
        folder: folder of protocols and defaults, which name classes.
        packages: packages whose `__all__`, or whose subpackages' `__all__`, lists additional classes.
    """
    whole = _without_titles(Protocol.model_json_schema(by_alias=True))
    definitions: Schema = {**whole.pop("$defs"), "Protocol": whole}
    whole["required"] = [name for name in whole["required"] if name != "Task"]  # supplied by the defaults
    _add_classes(definitions, find_classes(packages, _classes_named_in(folder)))
    required = {**_required_in(whole, definitions), "if": whole["if"], "then": whole["then"]}
    for name in definitions:
        if "." not in name and name not in _COMPLETE:
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
    """Format the schema as text for its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write the schema into the folder of its protocols."""
    parser = argparse.ArgumentParser(prog="python -m ignite_trainer.protocol.schema", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("protocols"), help="folder of protocols")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        dest="packages",
        metavar="PACKAGE",
        help="additional package whose classes editors should know",
    )
    flags = parser.parse_args(argv)
    path = flags.folder / FILE_NAME
    path.write_text(to_text(make_schema(flags.folder, (*PACKAGES, *flags.packages))), encoding="utf-8")
    print(path)
    return 0


def find_classes(packages: Iterable[str], named: Iterable[str]) -> dict[str, type]:
    """Find classes that can be instantiated.

    Args:
        packages: packages whose `__all__`, or whose subpackages' `__all__`, lists classes.
        named: dotted paths of additional classes.

    Returns:
        Classes by dotted path, sorted. A class with several paths is listed under one in `named`, or else
        under the shortest.
    """
    found: dict[str, type] = {}
    for name in packages:
        for module in _packages(importlib.import_module(name)):
            for attribute in getattr(module, "__all__", ()):
                found[f"{module.__name__}.{attribute}"] = getattr(module, attribute)
    named = set(named)
    for path in named:
        module_name, _, attribute = path.rpartition(".")
        found[path] = getattr(importlib.import_module(module_name), attribute)
    paths: dict[type, str] = {}
    for path, one in sorted(found.items(), key=lambda item: (item[0] not in named, len(item[0]), item[0])):
        if inspect.isclass(one) and not inspect.isabstract(one):
            paths.setdefault(one, path)
    return {path: one for one, path in sorted(paths.items(), key=lambda item: item[1])}


def kind_of(one: type) -> str | None:
    """Return the section that takes a class, or None; the base class of a section belongs to no section."""
    for section, kind in KINDS.items():
        if kind.base is not object and issubclass(one, kind.base):
            return None if one is kind.base else section
    return "Transforms" if any("__call__" in vars(base) for base in one.__mro__[:-1]) else None


def _packages(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for item in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if item.ispkg:
            yield importlib.import_module(item.name)


def _classes_named_in(folder: Path) -> set[str]:
    """List the classes in all files in a folder, including the models with defaults."""
    found: set[str] = set()
    for path in set(folder.glob("*.json")) - {folder / FILE_NAME}:
        content = read_json(path)
        found.update((key for key in content if "." in key), _named(content))
    return found


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("class"), str):
            yield node["class"]
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from _named(each)


def _add_classes(definitions: Schema, classes: Mapping[str, type]) -> None:
    """Give each section the names of its classes and the arguments of each."""
    by_section: dict[str, list[str]] = {section: [] for section in KINDS}
    required: dict[str, list[str]] = {}
    for path, one in classes.items():
        section = kind_of(one)
        if section is None:
            continue
        by_section[section].append(path)
        schema = _arguments(one, supplied=KINDS[section].supplied, typed=path.split(".")[0] in _OURS)
        if section == "Dataset":
            schema["properties"] |= _loader_arguments(definitions)
        definitions[path] = schema
        needed = schema.pop("required", [])
        required[path] = needed if section in _LISTS else []
    for section, paths in by_section.items():
        name = _HOLDERS.get(section, section)
        spec = definitions[name if name in definitions else "ClassSpec"]
        known = {**spec["properties"]["class"], "examples": paths}
        conditions = [_arguments_if(path, required[path]) for path in paths]
        definitions[name] = {
            **spec,
            "properties": {**spec["properties"], "class": known},
            "allOf": [*spec.get("allOf", ()), *conditions],
        }
        if section not in _HOLDERS:
            properties = definitions["Protocol"]["properties"]
            own = json.dumps(properties[section]).replace("/ClassSpec", f"/{section}")
            properties[section] = json.loads(own)
    del definitions["ClassSpec"]


def _arguments_if(path: str, required: Sequence[str]) -> Schema:
    """Require an object with this class to have arguments of this class."""
    arguments: Schema = {"$ref": f"#/$defs/{path}"}
    then: Schema = {"properties": {"args": arguments}}
    if required:
        arguments["required"] = list(required)
        then["required"] = ["args"]
    return {"if": {"properties": {"class": {"const": path}}, "required": ["class"]}, "then": then}


def _loader_arguments(definitions: Schema) -> Schema:
    """Return the schemas of the loader's arguments in `Dataset.args`."""
    definitions["SplitArgument"] = _without_titles(SplitArgument.model_json_schema(by_alias=True))
    for key in ("$defs", "required"):
        definitions["SplitArgument"].pop(key, None)
    return {
        "dl_shuffle": {"type": "boolean", "default": True, "description": "Shuffle the training split."},
        "training": {"$ref": "#/$defs/SplitArgument"},
    }


def _arguments(one: type, *, supplied: Iterable[str], typed: bool) -> Schema:
    """Return the schema of a class's arguments, without the arguments that the trainer supplies.

    Annotations determine the types of values only if `typed`.
    """
    parameters = inspect.signature(one).parameters.values()
    hints, descriptions = _hints(one) if typed else {}, _descriptions(one)
    properties: Schema = {}
    required = []
    for parameter in parameters:
        name = parameter.name
        if name in supplied or parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            continue
        properties[name] = _values(hints.get(name, Any))
        if name in descriptions:
            properties[name]["description"] = descriptions[name]
        if parameter.default is parameter.empty:
            required.append(name)
        elif _is_json(parameter.default):
            properties[name]["default"] = json.loads(json.dumps(parameter.default))
    return {
        "type": "object",
        "description": (inspect.getdoc(one) or one.__name__).split("\n\n")[0].replace("\n", " "),
        "properties": properties,
        "additionalProperties": any(each.kind is each.VAR_KEYWORD for each in parameters),
        **({"required": required} if required else {}),
    }


def _hints(one: type) -> dict[str, Any]:
    try:
        return get_type_hints(one.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        return {}


def _values(annotation: Any) -> Schema:
    """Return the schema of an annotation, or the schema of any value if JSON has no such type.

    A function in a union builds a model; a protocol names the model's class.
    """
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, TypeError):
        return {}
    if "$ref" in json.dumps(schema):
        return {}
    if any(get_origin(option) is Callable for option in get_args(annotation)):
        schema["anyOf"].append({"$ref": "#/$defs/Model"})
    return schema


def _descriptions(one: type) -> dict[str, str]:
    """Read the descriptions of arguments from the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in one.__mro__:
        section = _ARGUMENTS.search(inspect.cleandoc(base.__doc__ or "") + "\n\n")
        for entry in re.split(r"\n(?! )", inspect.cleandoc(section[1])) if section else ():
            if match := _ARGUMENT.match(entry):
                for name in match[1].split(", "):
                    found.setdefault(name, re.sub(r"\s+", " ", match[2]).strip())
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _required_in(node: Schema, definitions: Schema) -> Schema:
    """Return a schema of the required keys in an object and its nested objects, without lists."""
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
    """Make every key of an object optional, and let null remove it."""
    layer = {key: value for key, value in node.items() if key not in {"required", "if", "then"}}
    if "properties" in node:
        layer["properties"] = {key: _or_null(value) for key, value in node["properties"].items()}
    if isinstance(node.get("additionalProperties"), dict):
        layer["additionalProperties"] = _or_null(node["additionalProperties"])
    return layer


def _or_null(node: Schema) -> Schema:
    node, null = _as_layer(node), {"type": "null"}
    if null in node.get("anyOf", ()):
        return node
    annotations = {key: node.pop(key) for key in _ANNOTATIONS if key in node}
    return {**annotations, "anyOf": [node, null]}


def _without_titles(node: Any) -> Any:
    """Drop the titles that pydantic derives from names."""
    if isinstance(node, list):
        return [_without_titles(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_titles(each)
        for key, each in node.items()
        if not (key == "title" and isinstance(each, str))
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
