"""Dotted path and arguments -> an object of the kind that a section expects, from trusted packages.

A protocol names classes, so it could name any code. Only packages on the allow-list are imported, and the
name must lead to a class of the expected kind.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ignite_trainer.protocol.sections import ClassSpec
from ignite_trainer.support.errors import ProtocolError, RunFailed, suggest

TRUSTED_PACKAGES = frozenset(
    {"ignite_trainer", "model", "utils", "torch", "torchvision", "torchaudio", "ignite"}
)
# Their data sets fetch any address, unpack archives to wherever those lead, and read pickles.
_FETCHING = ("torchvision", "torchaudio")

T = TypeVar("T")


def resolve(spec: ClassSpec, kind: type[T], *, where: str, trusted: Iterable[str] = ()) -> type[T]:
    """Import the class that a spec names.

    Args:
        spec: the class and its arguments.
        kind: base class that the class must have.
        where: JSON path of the spec, for messages.
        trusted: allowed packages besides `TRUSTED_PACKAGES`.

    Raises:
        ProtocolError: The package is not trusted, or there is no such class of this kind.
    """
    found = _locate(spec.path, f"{where}.class", frozenset(trusted))
    if not inspect.isclass(found) or not issubclass(found, kind):
        what = f"a {_base(found)}" if inspect.isclass(found) else f"a {type(found).__name__}, not a class"
        expected = f"{kind.__module__}.{kind.__qualname__}"
        raise ProtocolError(f"{where}.class is {spec.path}: {what}; a subclass of {expected} is expected.")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ProtocolError(f"{where}.class is {spec.path}, which lacks {missing}: name a complete class.")
    return found


def resolve_callable(spec: ClassSpec, *, where: str, trusted: Iterable[str] = ()) -> Callable[..., Any]:
    """Import a class with `__call__`, or a function, which is called with its arguments later.

    Functions must be in the packages of `trusted`: the others have many that do more than transform their
    argument, such as the commands of this project.
    """
    found = _locate(spec.path, f"{where}.class", frozenset(trusted))
    if inspect.isclass(found) and any("__call__" in vars(base) for base in found.__mro__):
        return found
    if inspect.isfunction(found) and _package(found.__module__) in set(trusted):
        return functools.partial(functools.partial, found)
    raise ProtocolError(
        f"{where}.class is {spec.path}: neither a class with __call__ nor a function of a package that "
        "--trust names."
    )


def check_arguments(
    target: Callable[..., Any], args: Mapping[str, Any], *, where: str, supplied: Iterable[str] = ()
) -> list[str]:
    """Compare arguments with the signature of a class or function, without calling it.

    Args:
        target: a class, or a result of `resolve_callable`.
        args: the protocol's keyword arguments.
        where: JSON path of `args`.
        supplied: names of further arguments, which the trainer supplies.

    Returns:
        Problems; empty if the call is possible.
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
    """Call a class with a protocol's arguments, and give its errors the JSON path.

    If the message of an error begins with the name of an argument ("fold is 11; ..."), it gets the path of
    that argument. Errors that are not meant for users name the line of code.
    """
    try:
        return target(*positional, **args)
    except (ProtocolError, RunFailed):
        raise
    except Exception as error:
        message = str(error).strip()
        if not message or not isinstance(error, ValueError | OSError):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        is_of_argument = message.split(maxsplit=1)[0] in args
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
        # Python's own attributes lead anywhere, and importing private modules of libraries may do anything.
        raise ProtocolError(f'{where} is {path}; "{private}" is a private name, and those are not looked up.')
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
        raise ProtocolError(f'{where} is {path}, which is code of "{home}", a package that is not trusted.')
    if home in _FETCHING and home not in trusted and "datasets" in module.split("."):
        raise ProtocolError(
            f"{where} is {path}; data sets of {home} fetch and unpack what their arguments name, wherever "
            f"that leads, and some read pickles. If you know this protocol, add --trust {home}."
        )
    return found


def _import(name: str, where: str, path: str, *, optional: bool = False) -> Any:
    """Import a module of a trusted package; return None if it is optional and does not exist."""
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
    except Exception:  # such as torch.classes raises
        return False
    return True


def _public(found: Any) -> list[str]:
    """List the attributes, and the submodules that are not imported yet, for suggestions."""
    modules = [item.name for item in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    return [item for item in [*dir(found), *modules] if not item.startswith("_")]


def _package(module: str) -> str:
    return module.split(".", 1)[0]


def _base(found: type) -> str:
    return next((base.__name__ for base in found.__bases__ if base is not object), "plain class")
