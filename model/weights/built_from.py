"""The class and the arguments that a trained model was built with, as its checkpoint describes them.

```text
best_....pt             an OrderedDict of tensors with the attribute `built_from`
last_epoch-3.pt         the entry "built_from" of the state
../protocol.json        of older checkpoints: the section "Model"
```
"""

import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import read_entries
from .releases import WeightsError, released_hashes

NOT_OF_THE_NETWORK = ("pretrained", "assets")
"""Constructor arguments that say where the initial weights are from."""

NOT_DESCRIBED = (
    "The file does not say which arguments its model was built with, and no protocol.json of a run is beside "
    "it. Give those that differ from the published ones, embed_dim=... and so on."
)

logger = logging.getLogger(__name__)

_BUILT_FROM = "built_from"
_MODEL = "Model"  # section of a protocol


class BuiltFrom(NamedTuple):
    """Class and arguments from which the model of a checkpoint was built."""

    path: str
    """Dotted path of its class."""
    args: dict[str, Any]
    """Constructor arguments, without those that name files of weights."""
    source: Path
    """File that says so."""


def built_from(file: Path) -> BuiltFrom | None:
    """Read how the model of a checkpoint was built; None where neither it nor a protocol beside it says so.

    Raises:
        WeightsError: the description is damaged.
    """
    if (found := _described_in(file)) is not None:
        return _parsed(found, file)
    folder = file.resolve().parent
    places = [folder, *([folder.parent] if folder.name == "checkpoints" else [])]
    protocol = next((path for place in places if (path := place / "protocol.json").is_file()), None)
    if protocol is None:
        return None
    try:
        content = json.loads(protocol.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{protocol}: not the protocol of a run ({error}). Mend or remove it.") from None
    return _parsed(content.get(_MODEL) if isinstance(content, Mapping) else None, protocol)


def arguments_for(model_class: type, file: Path) -> dict[str, Any]:
    """Return the constructor arguments that a checkpoint was trained with; none where they are not known.

    Args:
        model_class: what is to be built.
        file: of weights.

    Raises:
        WeightsError: the checkpoint is of another class, or has arguments that this one lacks; the message
            says what to call.
    """
    known = built_from(file)
    if known is None:
        return {}
    name = known.path.rpartition(".")[-1]
    if name != model_class.__name__:
        raise WeightsError(
            f"{file}: weights of a {known.path}, not of {model_class.__name__}. {_how_to_build(known, file)}"
        )
    parameters = inspect.signature(model_class).parameters
    unknown = sorted(known.args.keys() - parameters.keys())
    if unknown:
        raise WeightsError(
            f'{known.source}: {name} was built with the argument "{unknown[0]}", which it lacks here. '
            "Use the version of the code that trained it."
        )
    return known.args


def warn_of_other_arguments(model_class: type, given: Mapping[str, Any], file: Path) -> None:
    """Warn of arguments that are not those that a checkpoint was trained with.

    Many of them have no weights, so that a checkpoint fits but computes something else: frames of the
    spectrogram, heads of a transformer. Released files, and others of which nothing is known, are not judged.

    Args:
        model_class: what is built, for its defaults.
        given: those of its arguments that decide what the weights of this file compute.
        file: of weights.

    Raises:
        WeightsError: the file, or its description, cannot be read.
    """
    known = None if released_hashes([file]) else built_from(file)
    if known is None:
        return
    defaults = inspect.signature(model_class).parameters
    trained = {name: known.args.get(name, defaults[name].default) for name in given}
    different = [name for name in given if _plain(given[name]) != _plain(trained[name])]
    if different:
        differences = "; ".join(f"{name} is {given[name]!r}, but was {trained[name]!r}" for name in different)
        logger.warning(
            "%s was trained with other arguments: %s. Give %s (in a protocol, under Model.args), unless you "
            "mean to change that.",
            file,
            differences,
            ", ".join(f"{name}={trained[name]!r}" for name in different),
        )


def _plain(value: Any) -> Any:
    """Make a list of a tuple, since JSON has lists only."""
    return list(value) if isinstance(value, tuple) else value


def _how_to_build(known: BuiltFrom, file: Path) -> str:
    """Say what to call to get the model of a checkpoint."""
    module, _, name = known.path.rpartition(".")
    arguments = [f"{key}={value!r}" for key, value in known.args.items()]
    if module.partition(".")[0] == __name__.partition(".")[0]:
        call = f"{name}({', '.join([*arguments, f'pretrained={str(file)!r}'])}).eval()"
        return f"Build that: from {module} import {name}; model = {call}"
    return (
        f"Build that, {name}({', '.join(arguments)}) of {module}, and load the file with read_state_dict and "
        "load_weights of model.weights.loading."
    )


def _described_in(file: Path) -> Any:
    """Read the description in the file itself, unchecked; return None if it has none."""
    entries = read_entries(file, mapped=True)
    if not isinstance(entries, Mapping):
        return None
    described = getattr(entries, _BUILT_FROM, None)
    return entries.get(_BUILT_FROM) if described is None else described


def _parsed(content: Any, source: Path) -> BuiltFrom:
    if isinstance(content, Mapping):
        path, args = content.get("class"), content.get("args", {})
        if isinstance(path, str) and isinstance(args, Mapping) and all(isinstance(key, str) for key in args):
            kept = {key: value for key, value in args.items() if key not in NOT_OF_THE_NETWORK}
            return BuiltFrom(path, kept, source)
    raise WeightsError(
        f'{source}: does not say which model was trained: "class" and "args" are expected, and not '
        f"{str(content)[:80]!r}."
    )
