"""Dotted path and arguments -> an object of the kind a section expects, from packages that are trusted.

A protocol names classes, so it could name any code. Only packages on the allow-list are imported, and what
is found must be a class of the expected kind.
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

_FETCHING = ("torchvision", "torchaudio")
"""Their data sets fetch any address, unpack it wherever its names lead, and read pickles."""

T = TypeVar("T")


def resolve(spec: ClassSpec, kind: type[T], *, where: str, trusted: Iterable[str] = ()) -> type[T]:
    """Import the class a spec names.

    Args:
        spec: the class and its arguments.
        kind: what the class must be a subclass of.
        where: JSON path of the spec, for messages.
        trusted: packages allowed besides `TRUSTED_PACKAGES`.

    Raises:
        ProtocolError: the package is not trusted, the path leads nowhere, or to something of another kind.
    """
    found = _locate(spec.path, f"{where}.class", frozenset(trusted))
    if not inspect.isclass(found) or not issubclass(found, kind):
        what = f"a {_base(found)}" if inspect.isclass(found) else f"no class but a {type(found).__name__}"
        raise ProtocolError(f"{where}.class is {spec.path}: {what}; a subclass of {_name(kind)} is expected.")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ProtocolError(f"{where}.class is {spec.path}, which lacks {missing}: name a complete class.")
    return found


def resolve_callable(spec: ClassSpec, *, where: str, trusted: Iterable[str] = ()) -> Callable[..., Any]:
    """Import a class whose instances are called, or a function.

    Functions are taken from the packages of `trusted` only: others have many that do more than transform
    their argument, such as the commands of this project.
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
    """Hold arguments against a signature without calling it.

    Args:
        target: a class or function.
        args: the protocol's keyword arguments.
        where: JSON path of `args`.
        supplied: names of further arguments that the trainer gives.

    Returns:
        Problems, each a line; empty if the call can be made.
    """
    bound_later = isinstance(target, functools.partial)  # the function of resolve_callable
    if isinstance(target, functools.partial):
        target = target.args[0]
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return []
    if bound_later:
        supplied = [*supplied, next(iter(parameters), "")]
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    supplied = set(supplied)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    allowed = [name for name in named if name not in supplied]
    problems = [
        f"{where}.{key} is supplied by the trainer; remove it."
        if key in supplied
        else f"{where}.{key} is not an argument; {suggest(key, allowed)}"
        for key in args
        if key not in allowed and not (open_ended and key not in supplied)
    ]
    if not open_ended:
        problems += [
            f"{where}.{name} is supplied by the trainer, but is not an argument; {suggest(name, named)}"
            for name in sorted(supplied - set(named))
        ]
    problems += [
        f"{where}.{name} is required."
        for name in allowed
        if named[name].default is inspect.Parameter.empty and name not in args
    ]
    return problems


# What classes raise that are given what they cannot take: of torch's, all of these.
_OF_ARGUMENTS = (
    *(ValueError, TypeError, OSError, LookupError, ImportError),
    *(RuntimeError, ArithmeticError, AssertionError, AttributeError),
)


def build(target: Callable[..., T], args: Mapping[str, Any], *positional: Any, where: str) -> T:
    """Call a class with a protocol's arguments; what it finds wrong with them is said with the JSON path.

    A constructor's message that begins with an argument's name ("fold is 11; ...") is given the path of it.
    """
    try:
        return target(*positional, **args)
    except (ProtocolError, RunFailed):
        raise
    except _OF_ARGUMENTS as error:
        said = str(error).strip()
        message = said if said and isinstance(error, ValueError | OSError) else _located(error)
        starts_with_argument = message.split(maxsplit=1)[0] in args
        raise ProtocolError(
            f"{where}.args.{message}" if starts_with_argument else f"{where}: {message}"
        ) from error


def _located(error: Exception) -> str:
    """What was raised and where: a TypeError, say, that the author of a class wants to find."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


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
            _import(f"{name}.{attribute}", where, path, container=found)
        if not _has(found, attribute):
            raise ProtocolError(
                f'{where} is {path}; {name} has no "{attribute}"; {suggest(attribute, _public(found))}'
            )
        found, name = getattr(found, attribute), f"{name}.{attribute}"
    home = _package(found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None) or "")
    if not home:
        raise ProtocolError(f"{where} is {path}, which is a {type(found).__name__}, not a class.")
    if home not in allowed:
        raise ProtocolError(f'{where} is {path}, which is code of "{home}", a package that is not trusted.')
    if (
        home in _FETCHING
        and home not in trusted
        and "datasets" in getattr(found, "__module__", "").split(".")
    ):
        raise ProtocolError(
            f"{where} is {path}; data sets of {home} fetch and unpack what their arguments name, wherever "
            f"that leads, and some read pickles. If you know this protocol, add --trust {home}."
        )
    return found


def _import(name: str, where: str, path: str, *, container: Any = None) -> Any:
    """Import a module of a trusted package; None if a container has no such submodule."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name and container is not None:
            return None
        raise ProtocolError(f"{where} is {path}; importing {name} failed: {error}.") from error
    except (Exception, SystemExit) as error:  # a module may raise anything: this one was named by a file
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ProtocolError(f"{where} is {path}; importing {name} failed: {kind}{error}.") from error


def _has(found: Any, attribute: str) -> bool:
    """Whether there is such an attribute; one that cannot be had, whatever it raises, is none."""
    try:
        getattr(found, attribute)
    except Exception:
        return False
    return True


def _public(found: Any) -> list[str]:
    """Names that can follow in a dotted path: attributes, and submodules that are not imported yet."""
    modules = [item.name for item in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    return [item for item in [*dir(found), *modules] if not item.startswith("_")]


def _package(module: str) -> str:
    return module.split(".", 1)[0]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _base(found: type) -> str:
    return next((base.__name__ for base in found.__bases__ if base is not object), "plain class")
