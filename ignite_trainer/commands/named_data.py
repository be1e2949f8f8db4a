"""Builds a data set from a protocol or a class, for commands that use the data without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch.utils.data import Dataset

from ignite_trainer.api.self_description import hold_nothing_out
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.instantiate import build, check_arguments, resolve
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from ignite_trainer.protocol.sections import ClassSpec
from ignite_trainer.runs.construction import build_datasets
from ignite_trainer.support.errors import ProtocolError


class NamedData(NamedTuple):
    """A data set and its origin.

    Attributes:
        splits: data sets by the name of their split, or `{None: data set}` if there are no splits.
        made_from: class and arguments of the data set, as JSON types.
    """

    splits: dict[str | None, Any]
    made_from: dict[str, Any]


def data_from_protocol(
    path: Path, overrides: Sequence[str] = (), *, trusted: Sequence[str] = (), defaults: Path
) -> NamedData:
    """Build all splits of a protocol's data set.

    Args:
        path: protocol file.
        overrides: command-line words that override keys of the protocol.
        trusted: additional packages whose classes the protocol may name.
        defaults: file with the sections to add to published protocols that omit them.

    Raises:
        ProtocolError: An override or the protocol is invalid; lists every problem.
    """
    rest, found = split_overrides(overrides)
    if rest:
        raise ProtocolError(f"{' '.join(rest)}: neither a flag nor a key of the protocol.")
    protocol = load(path, found, defaults=defaults)
    blueprint = draw(protocol.model_copy(update={"sweep": {}}), trusted=trusted)
    splits: dict[str | None, Any] = dict(build_datasets(blueprint).items())
    if hold_nothing_out(splits["train"], splits["test"]):
        splits = {None: splits["test"]}
    spec = protocol.dataset.model_dump(mode="json", by_alias=True)
    return NamedData(splits, spec)


def data_from_class(path: str, args: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> NamedData:
    """Build a data set from a class and its arguments, which may select a split.

    Raises:
        ProtocolError: The class or an argument is invalid; lists every problem.
    """
    try:
        spec = ClassSpec.model_validate({"class": path, "args": args})
    except ValidationError as error:
        raise ProtocolError([f"Dataset: {entry['msg']}" for entry in error.errors()]) from error
    kind = resolve(spec, Dataset, where="Dataset", trusted=trusted)
    problems = check_arguments(kind, spec.args, where="Dataset.args")
    if problems:
        raise ProtocolError(problems)
    made: Any = build(kind, spec.args, where="Dataset")
    return NamedData({None: made}, spec.model_dump(mode="json", by_alias=True))
