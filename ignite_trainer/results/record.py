"""`result.json`, the record of a finished run, and averages of metrics over several runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from ignite_trainer.api import self_description
from ignite_trainer.api.evaluation import FigureTable
from ignite_trainer.api.reporter import Best, Figure, RunEnd, Split
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.identity import digest, identity, shown_line
from ignite_trainer.protocol.sections import PublishedResult
from ignite_trainer.support.errors import ProtocolError

# Metric classes with values in 0..1, which tables show in per cent; values of other classes are unscaled.
_SHARES = frozenset(
    {
        *("Accuracy", "MacroAccuracy", "TopKCategoricalAccuracy"),
        *("Precision", "Recall", "AveragePrecision", "MeanAveragePrecision"),
        *("ROC_AUC", "MacroROCAUC", "Retrieval"),
    }
)


class RunRecord(BaseModel):
    """Result and origin of a finished run.

    Attributes:
        name: `Setup.name`.
        suffix: `Setup.suffix`.
        variant: digest of everything in the protocol that affects the result; runs with equal digests may be
            averaged.
        setting: the protocol's `Table.setting`, or "trained" or "evaluated".
        model: class name of the model.
        weights: files of the initial weights; empty if these were random.
        task_weights: files of the weights of the task's other models, such as a teacher.
        caution: mark from `leakage` if any of these weights were selected or trained on the evaluated
            samples; otherwise "".
        seen_in_training: what the models say of the data set in the training data of these weights.
        dataset: name of the data set, or of the part that was used.
        whole_name: name of the whole data set.
        samples: number of samples in each split, by its name.
        excluded: number of training samples left out because of their recordings, by the list that names
            these.
        digest: digest of the evaluated split; "" if unknown.
        held_out: numbers of the held-out folds.
        held_out_splits: names of the held-out splits, for data sets without folds.
        validation: numbers of the validation folds.
        chosen_on: split that chose the best epoch.
        folds: numbers of all folds in the data set.
        nothing_held_out: True if both splits are the whole data set; None if unknown.
        seed: seed of the run.
        epochs: number of epochs trained.
        stopped_early: True if the run stopped before the last epoch of its protocol.
        metric: label of the metric shown in tables, or None.
        share: True if tables show this metric in per cent, because its values are in 0..1.
        listed: True if the run appears in the table of all results.
        last: held-out metrics after the last epoch, by label.
        best: best epoch for each metric.
        evaluations: tables of the protocol's `Evaluations`, by name.
        multilabel: True if a sample in `predictions.csv` can have several classes or none.
        published: published results to compare the metric with.
        checkpoint: file of the last checkpoint.
        revision: commit of the source code.
        seconds: duration of the run.
        finished: time when the run finished, in ISO format (UTC).
        faults: number of faults of each kind that did not stop the run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    suffix: str | None = None
    variant: str
    setting: str
    model: str
    weights: tuple[WeightsFile, ...]
    task_weights: tuple[WeightsFile, ...] = ()
    caution: str = ""
    seen_in_training: str = ""
    dataset: str
    whole_name: str = ""
    samples: dict[str, int]
    excluded: dict[str, int] = {}
    digest: str = ""
    held_out: tuple[int, ...]
    held_out_splits: tuple[str, ...] = ()
    validation: tuple[int, ...] = ()
    chosen_on: Literal["validation", "test"] = "test"
    folds: tuple[int, ...]
    nothing_held_out: bool | None = None
    seed: int
    epochs: int
    stopped_early: bool = False
    metric: str | None
    share: bool = False
    listed: bool = True
    last: dict[str, Figure]
    best: tuple[Best, ...]
    evaluations: dict[str, dict[str, dict[str, Figure]]]
    multilabel: bool = False
    published: tuple[PublishedResult, ...]
    checkpoint: WeightsFile | None
    revision: str | None
    seconds: float
    finished: str
    faults: dict[str, int] = {}

    @classmethod
    def of(
        cls,
        blueprint: Blueprint,
        end: RunEnd,
        *,
        datasets: Mapping[Split, Any],
        weights: tuple[WeightsFile, ...],
        task_weights: tuple[WeightsFile, ...],
        evaluations: Mapping[str, FigureTable],
        multilabel: bool,
        revision: str | None,
        caution: str,
        seen_in_training: str,
    ) -> RunRecord:
        """Describe a run that has just ended; `datasets` has a data set for each evaluated split."""
        train, test = datasets["train"], datasets["test"]
        protocol, shown = blueprint.protocol, shown_line(blueprint.protocol)
        assert protocol.setup.seed is not None, "a run has a seed"
        return cls(
            name=protocol.setup.name,
            suffix=protocol.setup.suffix,
            variant=digest(identity(protocol, blueprint.classes)),
            setting=protocol.table.setting or ("trained" if protocol.setup.epochs else "evaluated"),
            model=protocol.model.path.rpartition(".")[-1],
            weights=weights,
            task_weights=task_weights,
            caution=caution,
            seen_in_training=seen_in_training,
            dataset=self_description.results_name(test),
            whole_name=self_description.whole_name(test),
            samples={split: len(dataset) for split, dataset in datasets.items()},
            excluded=self_description.excluded(train),
            digest=self_description.digest(test),
            held_out=self_description.held_out_folds(test),
            held_out_splits=self_description.held_out_splits(test),
            validation=self_description.validation_folds(test),
            chosen_on="validation" if "validation" in datasets else "test",
            folds=self_description.folds(test),
            nothing_held_out=self_description.hold_nothing_out(train, test),
            seed=protocol.setup.seed,
            epochs=end.last_epoch,
            stopped_early=end.stopped_early,
            metric=shown.line_label if shown else None,
            share=shown is not None and shown.path.rpartition(".")[-1] in _SHARES,
            listed=protocol.table.listed,
            last=dict(end.last),
            best=tuple(
                replace(best, checkpoint=best.checkpoint and Path(best.checkpoint.name)) for best in end.best
            ),
            evaluations={name: dict(table) for name, table in evaluations.items()},
            multilabel=multilabel,
            published=tuple(protocol.table.published),
            checkpoint=WeightsFile.of(end.last_checkpoint) if end.last_checkpoint else None,
            revision=revision,
            seconds=end.seconds,
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            faults=dict(end.faults),
        )

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a `result.json`; raise a ProtocolError if it is missing or invalid."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ProtocolError(f"{path} is not the result of a run: {error}") from error

    @property
    def listed_samples(self) -> int:
        """Number of samples in all splits, with those left out of training, whose number depends on folds."""
        return sum(self.samples.values()) + sum(self.excluded.values())

    @property
    def reports_best(self) -> bool:
        """True if the run's result is that of the best epoch, because the validation split chose it."""
        return (
            self.chosen_on == "validation" and self.epochs > 0 and self.best_of(self.metric or "") is not None
        )

    @property
    def is_of_training_data(self) -> bool:
        """True if the model was trained on the evaluated samples, because no fold was held out."""
        return bool(self.epochs and self.folds and not self.held_out)

    @property
    def evaluated(self) -> str:
        """Description of the evaluated samples, for runs without held-out folds."""
        if self.is_of_training_data:
            return "training data"
        if self.nothing_held_out or self.folds:
            return "whole set"
        return "evaluated split" if self.nothing_held_out is None else "held-out part"

    def best_of(self, label: str) -> Best | None:
        """Return the best epoch for a metric; None if there is none."""
        return next((best for best in self.best if best.label == label), None)

    def value(self, label: str) -> tuple[float | None, float | None]:
        """Return a held-out metric at the last and the best epoch, each None if missing or non-finite."""
        best = self.best_of(label)
        values = self.last.get(label, math.nan), best.value if best else math.nan
        last, at_best = (value if math.isfinite(value) else None for value in values)
        return last, at_best


class Spread(NamedTuple):
    """Mean and spread of several values.

    Attributes:
        mean: arithmetic mean.
        deviation: sample standard deviation (n - 1 in the denominator); None for a single value.
        n: number of values.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Average values; return None if any is missing or there are none."""
        present = [value for value in values if value is not None]
        if not present or len(present) < len(values):
            return None
        deviation = statistics.stdev(present) if len(present) > 1 else None
        return cls(statistics.fmean(present), deviation, len(present))

    @classmethod
    def over_folds(cls, values: Iterable[tuple[Hashable, float | None]]) -> Spread | None:
        """Average the values of runs, given with their held-out folds, with equal weight for every fold.

        The runs of a fold are averaged first; mean, deviation and n are then over the folds. If all runs held
        out the same folds, mean, deviation and n are over the runs.
        """
        folds: dict[Hashable, list[float | None]] = defaultdict(list)
        for held_out, value in values:
            folds[held_out].append(value)
        if len(folds) == 1:
            return cls.of(*folds.values())
        means = [cls.of(fold) for fold in folds.values()]
        return cls.of([mean.mean if mean else None for mean in means])

    def text(self, write: Callable[[float], str]) -> str:
        """Format the mean and, for several values, ± the deviation; `write` formats a number."""
        return write(self.mean) + ("" if self.deviation is None else f" ± {write(self.deviation)}")


class Averages(NamedTuple):
    """A metric averaged over several runs.

    Attributes:
        last: average after the last epoch; None if a run lacks the metric or its value is non-finite.
        best: average at each run's best epoch; None under the same conditions.
    """

    last: Spread | None
    best: Spread | None

    @classmethod
    def of(cls, records: Iterable[RunRecord], label: str) -> Averages:
        """Average a metric over runs, with equal weight for every fold."""
        values = [(record.held_out, record.value(label)) for record in records]
        last = Spread.over_folds((held_out, last) for held_out, (last, _) in values)
        best = Spread.over_folds((held_out, best) for held_out, (_, best) in values)
        return cls(last, best)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {name: spread._asdict() if spread else None for name, spread in self._asdict().items()}
