"""Optional attributes by which data sets and models describe themselves, and defaults for those without.

They are not needed to train, but improve reports, tables and predictions:

    dataset.results_name     name of the data set, or of the part used, in results
    dataset.whole_name       name of the whole data set, if `results_name` names the part that is held out
    dataset.folds            numbers of all folds
    dataset.held_out         numbers of the held-out folds
    dataset.held_out_splits  names of the held-out splits, for data sets without folds
    dataset.to_hold_out      arguments that hold samples out, for messages
    dataset.record(index)    identity of a sample: a mapping of names to texts and numbers
    dataset.look_at(index)   the sample without the slow work of `prepare`, for checks before a run; if a data
                             set has only `prepare`, `--check` reads no samples, and a run reads them after it
    dataset.digest           a text that changes with names or targets, if that is faster to compute
    dataset.affects          class attribute: effects of arguments that do not affect the result, as names of
                             `affects.Affects`, such as {"root": "run", "cache": "handling"}
    model.affects            the same for a model, such as {"pretrained": "run"}
    model.weights_files      files of the initial weights
    model.weights_sha256     expected hashes of those whose content is known, by path
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from ignite_trainer.support.files import sha256_of

_LOOKED_AT = 50  # samples at the beginning, and as many more


class WeightsFile(BaseModel):
    """A file of weights, identified by its content."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> WeightsFile:
        """Read a file and hash it."""
        return cls(name=path.name, sha256=sha256_of(path))


def results_name(dataset: Any) -> str:
    """Name the data set in results: by itself, or else by its class."""
    return str(getattr(dataset, "results_name", type(dataset).__name__))


def whole_name(dataset: Any) -> str:
    """Name the whole data set, whatever part of it is held out."""
    return str(getattr(dataset, "whole_name", results_name(dataset)))


def folds(dataset: Any) -> tuple[int, ...]:
    """List the numbers of all folds; empty without folds."""
    return tuple(getattr(dataset, "folds", ()))


def held_out_folds(dataset: Any) -> tuple[int, ...]:
    """List the numbers of the held-out folds."""
    return tuple(getattr(dataset, "held_out", ()))


def held_out_splits(dataset: Any) -> tuple[str, ...]:
    """List the names of the held-out splits, such as "test"."""
    return tuple(getattr(dataset, "held_out_splits", ()))


def digest(dataset: Any) -> str:
    """Return a text that is equal only for the same samples; "" if the data set has none."""
    return str(getattr(dataset, "digest", ""))


def hold_nothing_out(train: Any, test: Any) -> bool | None:
    """Return whether both splits are the same samples; None if they have neither folds nor a digest."""
    if folds(test):
        return not held_out_folds(test)
    return digest(test) == digest(train) if digest(test) else None


def to_hold_out(dataset: Any) -> str:
    """Name the arguments that hold samples out."""
    return str(getattr(dataset, "to_hold_out", "a fold"))


def record(dataset: Any, index: int) -> Mapping[str, str | int]:
    """Identify the sample at `index`: by its own record, or else by the index."""
    describe = getattr(dataset, "record", None)
    return describe(index) if callable(describe) else {"sample": index}


def look_at(dataset: Any, index: int) -> Any:
    """Read the sample at `index`, without the data set's `prepare` if it can."""
    read = getattr(dataset, "look_at", None)
    return read(index) if callable(read) else dataset[index]


def looked_at(samples: int) -> list[int]:
    """Choose the samples that checks look at: the first ones, and some from all over a sorted table."""
    step = math.ceil(samples / _LOOKED_AT) or 1
    return list(dict.fromkeys([*range(min(samples, _LOOKED_AT)), *range(0, samples, step)]))


def can_be_looked_at(dataset: Any) -> bool:
    """Return whether samples can be read before the data set's `prepare`."""
    return callable(getattr(dataset, "look_at", None)) or not callable(getattr(dataset, "prepare", None))


def sample_name(dataset: Any, index: int) -> str:
    """Name the sample at `index` in messages by the first entry of its record, such as "sample 3"."""
    name, value = next(iter(record(dataset, index).items()))
    return f"{name} {value}"


def listing(names: Sequence[str], *, most: int = 16) -> str:
    """Join the first names for a message, with the number of the others."""
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    return ", ".join([*names[:most], *more])


def weights_files(model: nn.Module) -> tuple[WeightsFile, ...]:
    """Name and hash the files of the model's initial weights; empty if they are random or unknown."""
    return tuple(WeightsFile.of(Path(path)) for path in getattr(model, "weights_files", ()))


def other_weights(model: nn.Module) -> tuple[Path, ...]:
    """List the files of the model's initial weights whose content is not what it should be."""
    expected = getattr(model, "weights_sha256", {})
    return tuple(path for path, sha256 in expected.items() if sha256_of(path) != sha256)
