"""What a data set or a model may say about itself, and the defaults for one that says nothing.

None of it is needed to train, but it improves reports, tables and predictions:

    dataset.results_name   what results on it may be called; of part of a data set not the whole one's name
    dataset.whole_name     where `results_name` says which part is held out: the name of all of it
    dataset.folds          the numbers of all its folds
    dataset.held_out       the numbers of those held out
    dataset.held_out_splits  the names of the splits held out, where no fold is
    dataset.to_hold_out    what in Dataset.args holds samples out, for messages
    dataset.record(index)  which sample that is: a mapping of names to texts and numbers
    dataset.look_at(index) that sample without the slow work of `prepare`, for checks before a run;
                           if it has `prepare` alone, `--check` looks at no sample and asks no task, and a
                           run does so once the data set is prepared
    dataset.digest         a text that is another where names or targets are others, if that is quicker to say
    dataset.affects        class attribute: what arguments affect that do not affect the result, as
                           `affects.Affects` names it, such as {"folder": "run", "verbose": "handling"}
    model.affects          likewise
    model.weights_files    the files that its initial weights came from
    model.weights_sha256   of those whose content is known, the hash they should have, by path

Some arguments mean the same in every class that takes them, unless it says otherwise: `fold` is the fold or
folds held out, `pretrained` the initial weights (false: random ones), `root` and `assets` are where data and
weights lie, `cache`, `progress` and `download` how the data are fetched and kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from ignite_trainer.api.affects import Affects

# What arguments of these names affect, unless their class says otherwise.
_ARGUMENTS = {
    **dict.fromkeys(("root", "fold", "pretrained", "assets"), Affects.RUN),
    **dict.fromkeys(("cache", "progress", "download"), Affects.HANDLING),
}
_CHUNK = 2**20
_LOOKED_AT = 50  # samples at the beginning, and as many more


class WeightsFile(BaseModel):
    """A file of weights, told apart from others by its content."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> WeightsFile:
        """Read a file and hash it."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return cls(name=path.name, sha256=digest.hexdigest())


def affects(kind: type | None) -> dict[str, Affects]:
    """Return what arguments of a data set's or a model's class affect where that is not the result.

    None stands for a class that does not say.
    """
    said = getattr(kind, "affects", {})
    return {**_ARGUMENTS, **{name: Affects(effect) for name, effect in said.items()}}


def results_name(dataset: Any) -> str:
    """Name the data set as results on it may: by itself, or else by its class."""
    return str(getattr(dataset, "results_name", type(dataset).__name__))


def whole_name(dataset: Any) -> str:
    """Name the data set, whatever part of it is held out."""
    return str(getattr(dataset, "whole_name", results_name(dataset)))


def folds(dataset: Any) -> tuple[int, ...]:
    """List the numbers of all folds of the data set; empty if it has none."""
    return tuple(getattr(dataset, "folds", ()))


def held_out_folds(dataset: Any) -> tuple[int, ...]:
    """List the numbers of the folds held out; empty if none is."""
    return tuple(getattr(dataset, "held_out", ()))


def held_out_splits(dataset: Any) -> tuple[str, ...]:
    """List the names of the splits held out, such as "test"; empty if none is."""
    return tuple(getattr(dataset, "held_out_splits", ()))


def digest(dataset: Any) -> str:
    """Return what is equal for the same samples alone; "" if the data set does not say."""
    return str(getattr(dataset, "digest", ""))


def hold_nothing_out(train: Any, test: Any) -> bool | None:
    """Return whether both splits are the same samples; None if they have neither folds nor a digest."""
    if folds(test):
        return not held_out_folds(test)
    return digest(test) == digest(train) if digest(test) else None


def to_hold_out(dataset: Any) -> str:
    """What to name in Dataset.args so that samples are held out."""
    return str(getattr(dataset, "to_hold_out", "a fold"))


def record(dataset: Any, index: int) -> Mapping[str, str | int]:
    """Say which sample is at `index`: its own record, or else the index."""
    describe = getattr(dataset, "record", None)
    return describe(index) if callable(describe) else {"sample": index}


def look_at(dataset: Any, index: int) -> Any:
    """Read the sample at `index`, if the data set can without its `prepare`."""
    read = getattr(dataset, "look_at", None)
    return read(index) if callable(read) else dataset[index]


def looked_at(samples: int) -> list[int]:
    """Positions of the samples of a data set that checks look at.

    Some are at the beginning, some all over the data set, since tables are often sorted.
    """
    step = math.ceil(samples / _LOOKED_AT) or 1
    return list(dict.fromkeys([*range(min(samples, _LOOKED_AT)), *range(0, samples, step)]))


def can_be_looked_at(dataset: Any) -> bool:
    """Return whether samples can be read before the data set's `prepare`."""
    return callable(getattr(dataset, "look_at", None)) or not callable(getattr(dataset, "prepare", None))


def sample_name(dataset: Any, index: int) -> str:
    """Name the sample at `index` as messages do: by the first entry of its record, such as "sample 3"."""
    name, value = next(iter(record(dataset, index).items()))
    return f"{name} {value}"


def listing(names: Sequence[str], *, most: int = 16) -> str:
    """Join names for a message; of more than `most` the first of them, and how many more there are."""
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    return ", ".join([*names[:most], *more])


def weights_files(model: nn.Module) -> tuple[WeightsFile, ...]:
    """Name and hash the files of the model's initial weights; empty if they are random or unknown."""
    return tuple(WeightsFile.of(Path(path)) for path in getattr(model, "weights_files", ()))


def other_weights(model: nn.Module) -> tuple[Path, ...]:
    """List the files of the model's initial weights that hold something else than they should."""
    expected = getattr(model, "weights_sha256", {})
    return tuple(path for path, sha256 in expected.items() if WeightsFile.of(path).sha256 != sha256)
