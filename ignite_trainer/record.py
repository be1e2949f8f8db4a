"""`result.json`: what a finished run reached, and from what, so that tables can be made of many runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ignite_trainer import self_description
from ignite_trainer.assembly import Parts
from ignite_trainer.errors import ProtocolError
from ignite_trainer.evaluation import Table
from ignite_trainer.protocol import LineSpec, Protocol, PublishedFigure
from ignite_trainer.reporters.reporter import RunEnd
from ignite_trainer.self_description import WeightsFile

FILE_NAME = "result.json"

# Keys that say where things are, how fast they go or which part of an experiment this is, not what it is.
# Data and weights are told apart by their names and hashes.
_PLACES = {
    "Setup": (
        *("name", "suffix", "saved_models_path", "seed", "resume"),
        *("workers_train", "workers_test", "log_interval", "skip_train_evaluation"),
        *("channels_last", "compile", "recompute", "keep_memory"),
        *("save_every_steps", "save_every_minutes"),
    ),
    "Dataset": ("root", "fold", "cache", "progress", "download"),
    "Model": ("pretrained", "assets"),
}
# What changes no figure where nothing is trained.
_OF_TRAINING = ("Parameters", "Optimizer", "Scheduler")
_STEPS_OF_TRAINING = ("batch_train", "accumulate", "chunk", "ema")
# Metrics, by the names of their classes, whose values are shares of 1; others are shown as they are.
_SHARES = frozenset(
    {
        *("Accuracy", "MacroAccuracy", "TopKCategoricalAccuracy"),
        *("Precision", "Recall", "AveragePrecision", "MeanAveragePrecision"),
    }
)
_DEFINITION = {"path", "args", "best"}
_NOT_OF_THE_FIGURES = ("$schema", "Visdom", "Reporters", "Faults")
_NOT_OF_THE_DATA = ("cache", "progress", "download")
_WHAT = ("Setup", "Model", "Task", "Parameters", "Optimizer", "Scheduler", "Dataset", "Transforms")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BestEpoch(_Facts):
    """The epoch with the best held-out value of a metric that checkpoints are kept by."""

    label: str
    value: float | None
    epoch: int
    checkpoint: str | None


class RunRecord(_Facts):
    """What a finished run reached.

    Attributes:
        name: `Setup.name`.
        suffix: `Setup.suffix`.
        variant: equal for runs that differ at most in fold, seed, data, weights and places.
        setting: "zero-shot", "trained" or what else the protocol's `Table` says.
        model: name of its class.
        weights: files of the initial weights; none if they were random.
        caution: whether these were chosen by, or trained on, the samples evaluated; "" if neither is known.
        dataset: what results on it may be called.
        whole_name: what the data set is called, whatever part of it is held out.
        samples: number of samples of each split.
        digest: of the samples evaluated; "" if the data set does not say.
        held_out: numbers of the folds held out; empty if no fold is.
        held_out_splits: names of the splits held out, where no fold is.
        folds: numbers of all folds of the data set.
        nothing_held_out: whether the samples evaluated are the whole data set; None if that is not known.
        metric: label of the one that tables show; None if there is no metric.
        share: whether it is known to be a share of 1, which tables show in per cent.
        listed: whether the run stands in the table of all results.
        last: held-out metrics after the last epoch, by label; None for a value that is not finite.
        best: best epochs, by metric.
        evaluations: tables of the protocol's `Evaluations`, by name.
        multilabel: whether a sample of `predictions.csv` can have several classes, or none.
        published: figures that the metric may be compared with.
        checkpoint: the last one.
        revision: of the source.
        faults: what went wrong and was lived with: how often, by what it was.
    """

    name: str
    suffix: str | None = None
    variant: str
    setting: str
    model: str
    weights: tuple[WeightsFile, ...]
    caution: str = ""
    dataset: str
    whole_name: str = ""
    samples: dict[str, int]
    digest: str = ""
    held_out: tuple[int, ...]
    held_out_splits: tuple[str, ...] = ()
    folds: tuple[int, ...]
    nothing_held_out: bool | None = None
    seed: int
    epochs: int
    metric: str | None
    share: bool = False
    listed: bool = True
    last: dict[str, float | None]
    best: tuple[BestEpoch, ...]
    evaluations: dict[str, dict[str, dict[str, float | None]]]
    multilabel: bool = False
    published: tuple[PublishedFigure, ...]
    checkpoint: WeightsFile | None
    revision: str | None
    seconds: float
    finished: str
    faults: dict[str, int] = {}

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a `result.json`.

        Raises:
            ProtocolError: it cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # bytes that are no text, text that is no record
            raise ProtocolError(f"{path} is not the result of a run: {error}") from error

    @property
    def is_of_training_data(self) -> bool:
        """Whether the metrics are of samples that the model was trained on, since no fold was held out."""
        return bool(self.epochs and self.folds and not self.held_out)

    @property
    def evaluated(self) -> str:
        """What was evaluated, where no fold was held out."""
        if self.is_of_training_data:
            return "training data"
        if self.nothing_held_out or self.folds:
            return "whole set"
        return "evaluated split" if self.nothing_held_out is None else "held-out part"

    def value(self, label: str) -> tuple[float | None, float | None]:
        """Return a held-out metric after the last epoch, and at its best; None where there is none."""
        best = next((entry.value for entry in self.best if entry.label == label), None)
        return self.last.get(label), best


def describe_run(
    protocol: Protocol,
    parts: Parts,
    end: RunEnd,
    *,
    evaluations: Mapping[str, Table],
    multilabel: bool,
    revision: str | None,
    caution: str,
) -> RunRecord:
    """Describe a run that has ended."""
    train, dataset = parts.evaluation["train"].dataset, parts.evaluation["test"].dataset
    shown = _shown_line(protocol)
    assert protocol.setup.seed is not None, "a run has a seed"
    return RunRecord(
        name=protocol.setup.name,
        suffix=protocol.setup.suffix,
        variant=variant(protocol),
        setting=protocol.table.setting or ("trained" if protocol.setup.epochs else "evaluated"),
        model=protocol.model.path.rpartition(".")[-1],
        weights=parts.initial_weights,
        caution=caution,
        dataset=self_description.results_name(dataset),
        whole_name=self_description.whole_name(dataset),
        samples={str(split): size for split, size in parts.sizes.items()},
        digest=self_description.digest(dataset),
        held_out=self_description.held_out_folds(dataset),
        held_out_splits=self_description.held_out_splits(dataset),
        folds=self_description.folds(dataset),
        nothing_held_out=self_description.hold_nothing_out(train, dataset),
        seed=protocol.setup.seed,
        epochs=protocol.setup.epochs,
        metric=shown.line_label if shown else None,
        share=shown is not None and shown.path.rpartition(".")[-1] in _SHARES,
        listed=protocol.table.listed,
        last=_finite(end.last),
        best=tuple(
            BestEpoch(
                label=best.label,
                value=_finite({"": best.value})[""],
                epoch=best.epoch,
                checkpoint=best.checkpoint.name if best.checkpoint else None,
            )
            for best in end.best
        ),
        evaluations={
            name: {row: _finite(values) for row, values in table.items()}
            for name, table in evaluations.items()
        },
        multilabel=multilabel,
        published=tuple(protocol.table.published),
        checkpoint=WeightsFile.of(end.last_checkpoint) if end.last_checkpoint else None,
        revision=revision,
        seconds=end.seconds,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        faults=dict(end.faults),
    )


def variant(protocol: Protocol) -> str:
    """Tell experiments apart: 12 hexadecimal digits of what `identity` says."""
    return digest(identity(protocol))


def identity(protocol: Protocol) -> dict[str, Any]:
    """Say what is computed, as JSON types: equal for protocols whose figures may be averaged.

    These are the sections `Setup` to `Transforms` and, as `Metric`, the definition of the metric that tables
    show. Fold, seed, data and weights may differ, and so may whatever says where things are and how fast they
    go; the batch size of evaluation, too, and what belongs to training where there are no epochs.
    """
    content = {name: section for name, section in protocol.to_json().items() if name in _WHAT}
    for name, keys in _PLACES.items():
        section = content[name]
        for place in (section, section.get("args", {})):
            for key in keys:
                place.pop(key, None)
    del content["Setup"]["batch_test"]
    if not protocol.setup.epochs:
        for key in _STEPS_OF_TRAINING:
            del content["Setup"][key]
        for name in _OF_TRAINING:
            del content[name]
    shown = _shown_line(protocol)
    content["Metric"] = shown.model_dump(mode="json", by_alias=True, include=_DEFINITION) if shown else None
    return content


def purpose(protocol: Protocol) -> str:
    """Tell sweeps apart: 12 hexadecimal digits, equal for two whose runs reach the same figures.

    Unlike in `variant`, data, weights, fold, seed and the sweep count; where results lie, who writes them
    down and how many processes load the data do not.
    """
    content = {
        name: section for name, section in protocol.to_json().items() if name not in _NOT_OF_THE_FIGURES
    }
    for key in set(_PLACES["Setup"]) - {"seed"}:
        del content["Setup"][key]
    for key in _NOT_OF_THE_DATA:
        content["Dataset"]["args"].pop(key, None)
    return digest(content)


def digest(content: Any) -> str:
    """Hash JSON types, whatever the order of their keys: 12 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shown_line(protocol: Protocol) -> LineSpec | None:
    """The metric that tables show: the one named, else the first of checkpoints, else the first."""
    lines = list(protocol.lines.values())
    named = [line for line in lines if line.line_label == protocol.table.metric]
    return next(iter([*named, *(line for line in lines if line.is_checkpoint), *lines]), None)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {label: float(value) if math.isfinite(value) else None for label, value in values.items()}
