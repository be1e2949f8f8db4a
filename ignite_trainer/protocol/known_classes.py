"""Classes that protocols can name, and their arguments as JSON Schema, from signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar, get_type_hints

from ignite.metrics import Metric
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.reporter import Reporter
from ignite_trainer.api.task import Task
from ignite_trainer.api.yardstick import Yardstick

_ARGUMENTS = re.compile(r"^ *Args:\n((?:(?: {4,}.*)?\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): (.*)", re.DOTALL)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """The classes that a section of a protocol takes.

    Attributes:
        base: base class of all of them.
        supplied: names of the arguments that the trainer supplies.
    """

    base: type[T]
    supplied: tuple[str, ...] = ()


MODEL = Kind(base=nn.Module)
TASK = Kind(base=Task)
OPTIMIZER = Kind(base=Optimizer, supplied=("params",))
SCHEDULER = Kind(base=LRScheduler, supplied=("optimizer",))
DATASET: Kind[Dataset[Any]] = Kind(base=Dataset, supplied=("train",))
TRANSFORM = Kind(base=object)  # what can be called and belongs to no other section
METRIC = Kind(base=Metric, supplied=("output_transform",))
EVALUATION = Kind(base=Evaluation)
YARDSTICK = Kind(base=Yardstick)
REPORTER = Kind(base=Reporter)

KINDS: Mapping[str, Kind[Any]] = {
    "Model": MODEL,
    "Task": TASK,
    "Optimizer": OPTIMIZER,
    "Scheduler": SCHEDULER,
    "Dataset": DATASET,
    "Transforms": TRANSFORM,
    "Metrics": METRIC,
    "Evaluations": EVALUATION,
    "Yardsticks": YARDSTICK,
    "Reporters": REPORTER,
}


def find_classes(packages: Iterable[str], named: Iterable[str]) -> dict[str, type]:
    """Find classes by their dotted paths.

    Args:
        packages: all that they and the packages inside them list in `__all__`.
        named: dotted paths of more.

    Returns:
        Complete classes by path, in order; of several paths of one class the shortest.
    """
    found: dict[str, type] = {}
    for name in packages:
        for module in _packages(importlib.import_module(name)):
            for attribute in getattr(module, "__all__", ()):
                found[f"{module.__name__}.{attribute}"] = getattr(module, attribute)
    for path in named:
        module_name, _, attribute = path.rpartition(".")
        found[path] = getattr(importlib.import_module(module_name), attribute)
    paths: dict[type, str] = {}
    for path, one in sorted(found.items(), key=lambda item: (len(item[0]), item[0])):
        if inspect.isclass(one) and not inspect.isabstract(one):
            paths.setdefault(one, path)
    return {path: one for one, path in sorted(paths.items(), key=lambda item: item[1])}


def kind_of(one: type) -> str | None:
    """Return the section that takes a class; None if none does, or if the class is a section's base."""
    for section, kind in KINDS.items():
        if kind is not TRANSFORM and issubclass(one, kind.base):
            return None if one is kind.base else section
    return "Transforms" if any("__call__" in vars(base) for base in one.__mro__[:-1]) else None


def arguments(one: type, *, supplied: Iterable[str], typed: bool) -> dict[str, Any]:
    """JSON Schema of a class's arguments.

    Args:
        one: the class.
        supplied: arguments that the trainer gives.
        typed: whether values are checked against the annotations, where those are of JSON.
    """
    parameters = [
        parameter
        for name, parameter in inspect.signature(one).parameters.items()
        if name not in set(supplied)
    ]
    hints, words = _hints(one) if typed else {}, _descriptions(one)
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    properties = {}
    for parameter in named:
        properties[parameter.name] = _values(hints.get(parameter.name, Any))
        if parameter.name in words:
            properties[parameter.name]["description"] = words[parameter.name]
        if parameter.default is not parameter.empty and _is_json(parameter.default):
            properties[parameter.name]["default"] = json.loads(json.dumps(parameter.default))
    required = [parameter.name for parameter in named if parameter.default is parameter.empty]
    return {
        "type": "object",
        "description": (inspect.getdoc(one) or one.__name__).split("\n\n")[0].replace("\n", " "),
        "properties": properties,
        "additionalProperties": any(each.kind is each.VAR_KEYWORD for each in parameters),
        **({"required": required} if required else {}),
    }


def _packages(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for item in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if item.ispkg:
            yield importlib.import_module(item.name)


def _hints(one: type) -> dict[str, Any]:
    try:
        return get_type_hints(one.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        return {}


def _values(annotation: Any) -> dict[str, Any]:
    """JSON Schema of what may stand for a value of this type; anything where JSON has no such type."""
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, TypeError):
        return {}
    text = json.dumps(schema)
    return {} if "$ref" in text else schema


def _descriptions(one: type) -> dict[str, str]:
    """What docstrings say of arguments, those of its bases included; the nearest counts."""
    found: dict[str, str] = {}
    for base in one.__mro__:
        section = _ARGUMENTS.search(inspect.cleandoc(base.__doc__ or "") + "\n\n")
        if not section:
            continue
        for entry in re.split(r"\n(?! )", inspect.cleandoc(section[1])):
            parts = _ARGUMENT.match(entry)
            for name in parts[1].split(", ") if parts else ():
                assert parts is not None
                found.setdefault(name, re.sub(r"\s+", " ", parts[2]).strip())
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
