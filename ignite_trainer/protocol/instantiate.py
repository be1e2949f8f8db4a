"""Imports and instantiates the classes that a protocol names, from trusted packages only.

A protocol names classes, so it could name any code. Only packages on the allow-list are imported, and each
name must lead to a class of the kind that its section expects.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ignite_trainer.protocol.sections import ClassSpec
from ignite_trainer.support.errors import ProtocolError, RunFailed, described, suggest

TRUSTED_PACKAGES = frozenset(
    {"ignite_trainer", "model", "utils", "torch", "torchvision", "torchaudio", "ignite"}
)
# Packages whose data sets download any address, unpack archives to any path, and load pickles.
_FETCHING = ("torchvision", "torchaudio")

T = TypeVar("T")


def resolve(spec: ClassSpec, kind: type[T], *, where: str, trusted: Iterable[str] = ()) -> type[T]:
    """Import the class that a spec names.

    Args:
        spec: dotted path and arguments of the class.
        kind: required base class.
        where: JSON path of the spec, for messages.
        trusted: packages allowed in addition to `TRUSTED_PACKAGES`.

    Raises:
        ProtocolError: The package is not trusted, or contains no such class of this kind.
    """
    found = _locate(spec.path, f"{where}.class", frozenset(trusted))
    if not inspect.isclass(found) or not issubclass(found, kind):
        what = f"extends {_base(found)}" if inspect.isclass(found) else f"is a {type(found).__name__}"
        expected = f"{kind.__module__}.{kind.__qualname__}"
        raise ProtocolError(
            f"{where}.class is {spec.path}, which {what}; it must be a subclass of {expected}."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ProtocolError(
            f"{where}.class is {spec.path}, which does not implement {missing}; name a complete class."
        )
    return found


def resolve_callable(spec: ClassSpec, *, where: str, trusted: Iterable[str] = ()) -> Callable[..., Any]:
    """Import a class with `__call__`, or a function to call later with the arguments.

    Functions must be in a package in `trusted`. Other packages have many functions that do more than
    transform their argument, such as this project's commands.
    """
    found = _locate(spec.path, f"{where}.class", frozenset(trusted))
    if inspect.isclass(found) and any("__call__" in vars(base) for base in found.__mro__):
        return found
    if inspect.isfunction(found) and _package(found.__module__) in set(trusted):
        return functools.partial(functools.partial, found)
    raise ProtocolError(
        f"{where}.class is {spec.path}; it must be a class with __call__, or a function in a package that "
        "--trust names."
    )


def check_arguments(
    target: Callable[..., Any], args: Mapping[str, Any], *, where: str, supplied: Iterable[str] = ()
) -> list[str]:
    """Compare arguments with the signature of a class or function, without calling it.

    Args:
        target: class, or result of `resolve_callable`.
        args: keyword arguments in the protocol.
        where: JSON path of `args`.
        supplied: names of arguments that the trainer supplies.

    Returns:
        Problems; empty if the class or function can be called.
    """
    is_function = isinstance(target, functools.partial)
    if isinstance(target, functools.partial):
        target = target.args[0]
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # implemented in C
        return []
    by_trainer = {*supplied, *(list(parameters)[:1] if is_function else ())}
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    allowed = [name for name in named if name not in by_trainer]
    problems = []
    for key in args:
        if key in by_trainer:
            problems.append(f"{where}.{key} is supplied by the trainer; remove it.")
        elif key not in named and not is_open:
            problems.append(f"{where}.{key} is not an argument; {suggest(key, allowed)}")
    problems += [
        f"{where}.{name} is supplied by the trainer, but is not an argument; {suggest(name, named)}"
        for name in sorted(by_trainer - set(named))
        if not is_open
    ]
    problems += [
        f"{where}.{name} is required."
        for name in allowed
        if named[name].default is inspect.Parameter.empty and name not in args
    ]
    return problems


def build(target: Callable[..., T], args: Mapping[str, Any], *positional: Any, where: str) -> T:
    """Call a class with a protocol's arguments, and add the JSON path to its errors.

    If an error's message begins with the name of an argument ("fold is 11; ...") or of a key in it
    ("masks.time is -1; ..."), the path is that of the argument. Errors that are not meant for users also name
    the line of code.
    """
    try:
        return target(*positional, **args)
    except (ProtocolError, RunFailed):
        raise
    except Exception as error:
        message = described(error)
        is_of_argument = message.split(maxsplit=1)[0].split(".")[0] in args
        raise ProtocolError(f"{where}.args.{message}" if is_of_argument else f"{where}: {message}") from error


def _locate(path: str, where: str, trusted: frozenset[str]) -> Any:
    package, *attributes = path.split(".")
    allowed = TRUSTED_PACKAGES | trusted
    if package not in allowed:
        raise ProtocolError(
            f'{where} is {path}; "{package}" is not trusted. Allowed: {", ".join(sorted(allowed))}. '
            f"If you know this code, add --trust {package}."
        )
    private = next((name for name in attributes if name.startswith("_")), None)
    if private is not None:
        # Python's own attributes lead anywhere, and importing a library's private modules may do anything.
        raise ProtocolError(
            f'{where} is {path}; "{private}" is a private name, which protocols must not use.'
        )
    found: Any = _import(package, where, path)
    name = package
    for attribute in attributes:
        if not _has(found, attribute) and inspect.ismodule(found):
            _import(f"{name}.{attribute}", where, path, optional=True)
        if not _has(found, attribute):
            raise ProtocolError(
                f'{where} is {path}; {name} has no "{attribute}"; {suggest(attribute, _public(found))}'
            )
        found, name = getattr(found, attribute), f"{name}.{attribute}"
    module = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None) or ""
    home = _package(module)
    if not home:
        raise ProtocolError(f"{where} is {path}, which is a {type(found).__name__}, not a class.")
    if home not in allowed:
        raise ProtocolError(
            f'{where} is {path}, which is defined in "{home}", a package that is not trusted.'
        )
    if home in _FETCHING and home not in trusted and "datasets" in module.split("."):
        raise ProtocolError(
            f"{where} is {path}; data sets in {home} download and unpack whatever their arguments name, to "
            f"any path, and some load pickles. If you know this protocol, add --trust {home}."
        )
    return found


def _import(name: str, where: str, path: str, *, optional: bool = False) -> Any:
    """Import a module in a trusted package; return None if it is optional and does not exist."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        if optional and isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ProtocolError(f"{where} is {path}; importing {name} failed: {kind}{error}.") from error


def _has(found: Any, attribute: str) -> bool:
    try:
        getattr(found, attribute)
    except Exception:  # torch.classes, for example, raises a RuntimeError
        return False
    return True


def _public(found: Any) -> list[str]:
    """List attributes, and submodules that are not imported yet, for suggestions."""
    modules = [item.name for item in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    return [item for item in [*dir(found), *modules] if not item.startswith("_")]


def _package(module: str) -> str:
    return module.split(".", 1)[0]


def _base(found: type) -> str:
    return next((base.__name__ for base in found.__bases__ if base is not object), "no class")
