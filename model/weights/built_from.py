"""The class and constructor arguments of a trained model, as its checkpoint describes them.

```text
best_....pt             attribute `built_from` of the OrderedDict of tensors
last_epoch-3.pt         entry "built_from" of the state
../protocol.json        section "Model", for older checkpoints
```
"""

import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..own_name import NAMES, PACKAGE
from .files import read_entries
from .releases import WeightsError, released_hashes

NOT_OF_THE_NETWORK = ("pretrained", "assets")
"""Constructor arguments that name the source of the initial weights."""

NOT_DESCRIBED = (
    "The file does not say which arguments its model was built with, and there is no run's protocol.json "
    "beside it. Pass the arguments that differ from those of the published model, such as embed_dim=..."
)

logger = logging.getLogger(__name__)

_BUILT_FROM = "built_from"


class BuiltFrom(NamedTuple):
    """Class and constructor arguments of a checkpoint's model."""

    path: str
    """Dotted path of the class."""
    args: dict[str, Any]
    """Constructor arguments, except those that name weights files."""
    source: Path
    """File that contains this description."""


def built_from(file: Path) -> BuiltFrom | None:
    """Read the class and arguments of a checkpoint's model from the checkpoint or its run's `protocol.json`.

    Returns:
        None if neither describes the model.

    Raises:
        WeightsError: The description is damaged.
    """
    entries = read_entries(file, mapped=True)
    if isinstance(entries, Mapping):
        described = getattr(entries, _BUILT_FROM, None) or entries.get(_BUILT_FROM)
        if described is not None:
            return _parsed(described, file)
    folder = file.resolve().parent
    places = [folder, *([folder.parent] if folder.name == "checkpoints" else [])]
    protocol = next((path for place in places if (path := place / "protocol.json").is_file()), None)
    if protocol is None:
        return None
    try:
        content = json.loads(protocol.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{protocol}: not the protocol of a run ({error}). Repair or remove it.") from None
    return _parsed(content.get("Model") if isinstance(content, Mapping) else None, protocol)


def arguments_for(model_class: type, file: Path) -> dict[str, Any]:
    """Return the constructor arguments of a checkpoint's model; {} if they are unknown.

    Raises:
        WeightsError: The checkpoint belongs to another class, or its arguments include one that `model_class`
            lacks; the message says what to do.
    """
    known = built_from(file)
    if known is None:
        return {}
    module, _, name = known.path.rpartition(".")
    if name != model_class.__name__:
        arguments = ", ".join(f"{key}={value!r}" for key, value in known.args.items())
        how = (
            f"Build {name}({arguments}) from {module} instead, and load the file with read_state_dict and "
            f"load_weights from {PACKAGE}.weights.loading."
        )
        package, dot, submodule = module.partition(".")
        if package in NAMES:
            module = f"{PACKAGE}{dot}{submodule}"
            arguments = ", ".join([*filter(None, [arguments]), f"pretrained={str(file)!r}"])
            how = f"Build {name} instead: from {module} import {name}; model = {name}({arguments}).eval()"
        raise WeightsError(f"{file} holds weights of {known.path}, not of {model_class.__name__}. {how}")
    unknown = sorted(known.args.keys() - inspect.signature(model_class).parameters.keys())
    if unknown:
        raise WeightsError(
            f'{known.source}: {name} was built with the argument "{unknown[0]}", which this version lacks. '
            "Use the version of the code that trained it."
        )
    return known.args


def warn_of_other_arguments(model_class: type, given: Mapping[str, Any], file: Path) -> None:
    """Warn if arguments differ from those with which a checkpoint was trained.

    Some arguments do not change the shapes of weights: the spectrogram's hop length and the number of heads
    in a transformer, for example. With different values the checkpoint still fits, but the model computes
    something else. Released files and files without a description are skipped.

    Args:
        model_class: class to build; its signature supplies the defaults.
        given: arguments that determine what the weights compute.
        file: checkpoint.

    Raises:
        WeightsError: The file or its description cannot be read.
    """
    known = None if released_hashes([file]) else built_from(file)
    if known is None:
        return
    defaults = inspect.signature(model_class).parameters
    trained = {name: known.args.get(name, defaults[name].default) for name in given}
    different = [name for name in given if _as_json(given[name]) != _as_json(trained[name])]
    if different:
        logger.warning(
            "%s was trained with different arguments: %s. Pass %s (in a protocol, under Model.args), unless "
            "you intend the change.",
            file,
            "; ".join(f"{name} is {given[name]!r}, but was {trained[name]!r}" for name in different),
            ", ".join(f"{name}={trained[name]!r}" for name in different),
        )


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parsed(content: Any, source: Path) -> BuiltFrom:
    if isinstance(content, Mapping):
        path, args = content.get("class"), content.get("args", {})
        if isinstance(path, str) and isinstance(args, Mapping) and all(isinstance(key, str) for key in args):
            kept = {key: value for key, value in args.items() if key not in NOT_OF_THE_NETWORK}
            return BuiltFrom(path, kept, source)
    raise WeightsError(
        f'{source} does not say which model was trained; expected "class" and "args", got '
        f"{str(content)[:80]!r}."
    )
