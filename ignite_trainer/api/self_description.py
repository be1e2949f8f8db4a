"""Optional attributes that describe data sets and models in results, and their defaults.

None of these attributes is required, but they improve reports, tables and predictions:

    dataset.results_name     name of the data set in results, or name of the part in use
    dataset.whole_name       name of the whole data set, if `results_name` names the held-out part
    dataset.folds            numbers of all folds
    dataset.held_out         numbers of the held-out folds
    dataset.held_out_splits  names of the held-out splits, for data sets without folds
    dataset.validation       in the training split: data set of the samples that choose the best epoch, which
                             is neither trained on nor held out; without it, the held-out split chooses
    dataset.validation_folds numbers of the folds in it
    dataset.to_hold_out      names of the arguments that select the held-out samples, for messages
    dataset.record(index)    identity of a sample: a mapping from names to strings and integers
    dataset.sources()        iterator over the recording that each sample comes from, such as
                             "freesound:100032", or None. A run warns if training and evaluation share one
    dataset.sources_remedy   advice for messages about recordings that training and evaluation share
    dataset.excluded         number of training samples that an argument leaves out because of their
                             recordings, by the list that names these
    dataset.listing(index)   facts about a sample; its attribute `place` names the sample in messages, and its
                             attribute `labels`, a sequence of names, is used by `Setup.sampling`
    dataset.look_at(index)   a sample, read without the slow work of `prepare`, for checks before a run. If a
                             data set has `prepare` but no `look_at`, `--check` reads no samples, and a run
                             reads samples only after `prepare`
    dataset.digest           a string that changes if the samples' names or targets change; without it, a run
                             hashes all records
    dataset.affects          class attribute: the arguments that leave the result unchanged, with what they
                             affect instead, as values of `Affects`, such as {"root": "run"}
    model.affects            the same for a model, such as {"pretrained": "run"}
    model.weights_files      paths of the initial weights
    model.weights_sha256     expected sha256 by path, for weights whose content is known
    model.weights_names      name in results by path, for weights whose file name says little
    model.seen_in_training(name)   what is known of samples of the data set `name` among the training data of
                             the initial weights, as text; "" if these had no training data
    model.layer_order()      order of the layers, for `depth_decay` in the rules of `Parameters`: a list of
                             towers, independent of each other; a tower is a list of layers from the input to
                             the output, and a layer is a list of names of modules and parameters
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from torch import nn

from ignite_trainer.support.files import sha256_of

_SAMPLES_CHECKED = 50  # samples at the start of a split, and about as many spread over all of it


class WeightsFile(BaseModel):
    """Name and hash of a weights file."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> WeightsFile:
        """Hash the file at `path`; the name is the file's own by default."""
        return cls(name=name or path.name, sha256=sha256_of(path))


class Layer(NamedTuple):
    """A parameter's layer.

    Attributes:
        depth: number of layers between this one and the output of its tower; 0 for the last layer.
        module: name of the module that contains the parameter, or of the parameter itself, as declared.
    """

    depth: int
    module: str


def results_name(dataset: Any) -> str:
    """Return the name of the data set in results, by default the name of its class."""
    return str(getattr(dataset, "results_name", type(dataset).__name__))


def whole_name(dataset: Any) -> str:
    """Return the name of the whole data set, regardless of the part that is held out."""
    return str(getattr(dataset, "whole_name", results_name(dataset)))


def folds(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of all folds; empty if the data set has no folds."""
    return tuple(getattr(dataset, "folds", ()))


def held_out_folds(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of the held-out folds."""
    return tuple(getattr(dataset, "held_out", ()))


def validation_folds(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of the validation folds."""
    return tuple(getattr(dataset, "validation_folds", ()))


def held_out_splits(dataset: Any) -> tuple[str, ...]:
    """Return the names of the held-out splits, such as "test"."""
    return tuple(getattr(dataset, "held_out_splits", ()))


def digest(dataset: Any) -> str:
    """Return the data set's digest, or "" if it has none; equal digests mean the same samples."""
    return str(getattr(dataset, "digest", ""))


def hold_nothing_out(train: Any, test: Any) -> bool | None:
    """Return whether both splits contain the same samples; None if they have neither folds nor a digest."""
    if folds(test):
        return not held_out_folds(test)
    return digest(test) == digest(train) if digest(test) else None


def to_hold_out(dataset: Any) -> str:
    """Return the names of the arguments that select the held-out samples, for messages."""
    return str(getattr(dataset, "to_hold_out", "a fold"))


def sources(dataset: Any) -> Iterator[str | None]:
    """Return the recording that each sample comes from; nothing if the data set does not know recordings."""
    found = getattr(dataset, "sources", None)
    return iter(found()) if callable(found) else iter(())


def sources_remedy(dataset: Any) -> str:
    """Return advice about recordings that training and evaluation share."""
    return str(getattr(dataset, "sources_remedy", "Hold all samples of a recording out together."))


def excluded(dataset: Any) -> dict[str, int]:
    """Return the number of training samples left out, by the list that names their recordings."""
    return dict(getattr(dataset, "excluded", {}))


def place(dataset: Any, index: int) -> str:
    """Return the place where the sample at `index` is listed, or its name."""
    describe = getattr(dataset, "listing", None)
    return str(describe(index).place) if callable(describe) else sample_name(dataset, index)


def labels(dataset: Any, index: int) -> Sequence[str] | None:
    """Return the labels of the sample at `index`, without reading it; None if the data set lists none."""
    describe = getattr(dataset, "listing", None)
    names = getattr(describe(index), "labels", None) if callable(describe) else None
    return (names,) if isinstance(names, str) else names  # a text is one label, not a label for each letter


def record(dataset: Any, index: int) -> Mapping[str, str | int]:
    """Return the record of the sample at `index`, by default only its index."""
    describe = getattr(dataset, "record", None)
    return describe(index) if callable(describe) else {"sample": index}


def look_at(dataset: Any, index: int) -> Any:
    """Read the sample at `index`, without the slow work of `prepare` if the data set supports that."""
    read = getattr(dataset, "look_at", None)
    return read(index) if callable(read) else dataset[index]


def samples_to_check(samples: int) -> list[int]:
    """Choose samples to check: the first samples, and others spread over the split, which may be sorted."""
    step = math.ceil(samples / _SAMPLES_CHECKED) or 1
    return list(dict.fromkeys([*range(min(samples, _SAMPLES_CHECKED)), *range(0, samples, step)]))


def readable_before_prepare(dataset: Any) -> bool:
    """Return whether samples can be read before the data set's `prepare`."""
    return callable(getattr(dataset, "look_at", None)) or not callable(getattr(dataset, "prepare", None))


def sample_name(dataset: Any, index: int) -> str:
    """Return a name for the sample at `index`: the first entry in its record, such as "sample 3"."""
    name, value = next(iter(record(dataset, index).items()))
    return f"{name} {value}"


def listing(names: Sequence[str], *, most: int = 16) -> str:
    """Join at most `most` names for a message, and count the rest."""
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    return ", ".join([*names[:most], *more])


def weights_files(model: nn.Module) -> tuple[WeightsFile, ...]:
    """Return the files with the model's initial weights; empty if the weights are random or unknown."""
    names: Mapping[Path, str] = getattr(model, "weights_names", {})
    return tuple(WeightsFile.of(Path(path), names.get(path)) for path in getattr(model, "weights_files", ()))


def seen_in_training(model: nn.Module, dataset: Any) -> str:
    """Return what the model says of a data set in the training data of its initial weights, or ""."""
    describe = getattr(model, "seen_in_training", None)
    return str(describe(whole_name(dataset))) if callable(describe) else ""


def other_weights(model: nn.Module) -> tuple[Path, ...]:
    """Return the files with initial weights whose sha256 differs from the expected one."""
    expected = getattr(model, "weights_sha256", {})
    return tuple(path for path, sha256 in expected.items() if sha256_of(path) != sha256)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return the layer of each parameter that the model's `layer_order` covers, by the parameter's name."""
    describe = getattr(model, "layer_order", None)
    if not callable(describe):
        return {}
    declared = {
        name: Layer(depth, name)
        for tower in describe()
        for depth, layer in enumerate(reversed(tower))
        for name in layer
    }
    found = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        layer = next((declared[prefix] for prefix in prefixes if prefix in declared), None)
        if layer is not None:
            found[name] = layer
    return found
