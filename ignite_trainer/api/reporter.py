"""Events of a run, and the base class for reporters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer

from ignite_trainer.api.media import Gallery
from ignite_trainer.api.predictions import Predictions

Split = Literal["train", "validation", "test"]
"""The training split, the validation split (if the data set has one) or the held-out split."""
SPLIT_NAMES: Mapping[Split, str] = {"train": "training", "validation": "validation", "test": "held-out"}
"""Display names of the splits."""

_AS_NULL = PlainSerializer(lambda value: float(value) if math.isfinite(value) else None, when_used="json")
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value), _AS_NULL]
"""A float in JSON: non-finite values are written as null, and null is read as NaN."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line in a chart: one metric in the protocol's `Metrics`, on one split."""

    key: str
    """Key of the line's values in `Evaluated.metrics` or `Iteration.metrics`: the metric's `line_label`."""
    label: str
    """Display name, such as "Val. Acc. Eval."."""
    split: Split
    by_iteration: bool = False
    """True if the line has a value for each `Iteration` rather than for each `Evaluated`."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A chart: one window in the protocol's `Metrics`."""

    name: str
    x_label: str
    y_label: str
    width: int
    """Width on the dashboard, pixels."""
    height: int
    """Height on the dashboard, pixels."""
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best epoch so far by a metric marked `is_checkpoint`."""

    label: str
    """The metric's `line_label`."""
    value: Figure
    """Held-out value at that epoch."""
    epoch: int
    """Number of the epoch; 0 is before the first step."""
    checkpoint: Path | None
    """File with that epoch's weights, if they were kept; `result.json` contains only the file's name."""
    chosen_on: Literal["validation", "test"] = "test"
    """Split whose value chose the epoch; as published, the held-out split."""
    validation: Annotated[float, _AS_NULL] | None = None
    """Validation value at that epoch; None without a validation split."""

    @classmethod
    def of(
        cls,
        label: str,
        epoch: int,
        *,
        held_out: Mapping[str, float],
        validation: Mapping[str, float] | None,
    ) -> Best:
        """Describe an epoch by the metrics of both splits; `validation` is None without such a split."""
        return cls(
            label=label,
            value=held_out.get(label, math.nan),
            epoch=epoch,
            checkpoint=None,
            chosen_on="test" if validation is None else "validation",
            validation=None if validation is None else validation.get(label, math.nan),
        )

    @property
    def chosen_by(self) -> float:
        """Value that chose the epoch."""
        if self.chosen_on == "test":
            return self.value
        return math.nan if self.validation is None else self.validation

    def rank(self, *, better: Literal["max", "min"]) -> tuple[float, bool]:
        """Return a sort key that puts the best epoch last.

        A non-finite value ranks lowest. At equal values, a trained epoch ranks above epoch 0, and two
        trained epochs rank equal, so the earlier epoch is kept.
        """
        value = self.chosen_by
        if not math.isfinite(value):
            return -math.inf, self.epoch > 0
        return (value if better == "max" else -value), self.epoch > 0


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """Description of a run that is about to start or resume."""

    folder: Path
    """Folder of the run, which already exists."""
    name: str
    """Title of the run: experiment name with suffix, and folder name."""
    protocol: Mapping[str, Any]
    """Resolved protocol as JSON types."""
    environment: Mapping[str, Any]
    """Versions, device, seed and revision, as in `environment.json`."""
    facts: Mapping[str, str]
    """Rows of the start table: device, parameter counts by rule, data set sizes, folder."""
    windows: tuple[Window, ...]
    """Charts in the protocol's `Metrics`."""
    epochs: int
    """Maximum number of epochs to train; 0 if the run only evaluates."""
    iterations_per_epoch: int
    sweep: str | None = None
    """Name of the sweep to which the run belongs, if any."""
    best: tuple[Best, ...] = ()
    """Best values so far, if the run is resumed."""
    caution: str = ""
    """Warning to show wherever the run's results are shown; "" for no warning."""
    gallery: Gallery = field(default_factory=Gallery)
    """Images and recordings of samples and the model; use it within a reporter's methods only."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Training progress, every `Setup.log_interval` batches and after the last batch of an epoch."""

    event: Literal["iteration"] = "iteration"
    epoch: int
    """Current epoch, from 1."""
    iteration: int
    """Number of batches since training started, from 1."""
    split: Literal["train"] = "train"
    loss: Figure
    """Running average of the training loss."""
    learning_rates: tuple[Figure, ...]
    """Learning rate of each rule in `Parameters` that trains; with `depth_decay`, that of its last layer."""
    samples_per_second: Figure
    """Training speed since the last `Iteration`."""
    metrics: Mapping[str, Figure] = field(default_factory=dict)
    """Values of metrics with `"update_rate": "iteration"`, by `line_label`."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Results of a pass over a split."""

    event: Literal["evaluation"] = "evaluation"
    epoch: int
    """Epochs trained so far; 0 is before the first step."""
    iteration: int
    """Number of batches trained on so far."""
    split: Split
    metrics: Mapping[str, Figure]
    """Values by `line_label`, such as "Val. Acc."."""
    seconds: Figure
    """Duration of the pass, seconds."""
    predictions: Annotated[InstanceOf[Predictions] | None, Field(exclude=True)] = None
    """Scores for every held-out sample, if the task scores classes; not written to the log."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Values from an entry in the protocol's `Evaluations`, after a pass over the held-out split."""

    event: Literal["measurement"] = "measurement"
    epoch: int
    """Epochs trained so far; 0 is before the first step."""
    name: str
    """Key of the entry in `Evaluations`."""
    split: Literal["test"] = "test"
    table: Mapping[str, Mapping[str, Figure]]
    """Values by row and column."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault during a run, and the response to it."""

    event: Literal["fault"] = "fault"
    epoch: int
    iteration: int
    what: str
    """Description of the fault, such as "The loss is nan"."""
    done: str
    """Response to the fault, such as "the step is skipped"."""
    samples: tuple[str, ...] = ()
    """Names of the affected samples."""


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """Results of a finished run."""

    event: Literal["end"] = "end"
    last_epoch: Annotated[int, Field(alias="epoch")]
    split: Literal["test"] = "test"
    last: Annotated[Mapping[str, Figure], Field(alias="metrics")]
    """Held-out metrics from the last evaluation, by `line_label`."""
    best: tuple[Best, ...]
    last_checkpoint: Path | None
    """File with the complete state after the last epoch, if the run trained."""
    seconds: Figure
    """Total duration of the run, including sessions before it was resumed, seconds."""
    stopped_early: bool = False
    """True if training ended because the validation metric had not improved for `Setup.patience` epochs."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Number of faults of each kind, such as {"steps skipped": 2}."""


Event = Iteration | Evaluated | Measured
"""An event that is replayed if the run is resumed."""


class Reporter:
    """Base class for reporters. Override the methods for the events to report.

    A run calls `on_start` or `on_resume` once, then one method per event in order, then `on_end` if the run
    finishes, and always `close`. Only the main process has reporters. If a reporter raises an exception, the
    exception is logged, and the run continues without that reporter.

    Attributes:
        section: protocol section whose keys are passed to the constructor, such as "Visdom"; None for no
            section.
    """

    section: ClassVar[str | None] = None

    def on_start(self, run: RunStart) -> None:
        """Prepare for a new run, which has been built and checked. Its first evaluation follows."""

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Prepare for a resumed run; called instead of `on_start`.

        By default, call `on_start`, then replay the history. Override this method if the output already
        contains the history.

        Args:
            run: description of the run.
            history: earlier events, read from `metrics.jsonl`, without predictions.
        """
        self.on_start(run)
        for event in history:
            match event:
                case Iteration():
                    self.on_iteration(event)
                case Evaluated():
                    self.on_evaluation(event)
                case Measured():
                    self.on_measurement(event)

    def on_iteration(self, step: Iteration) -> None:
        """Report progress, every `Setup.log_interval` batches and after the last batch of an epoch."""

    def on_evaluation(self, result: Evaluated) -> None:
        """Report the metrics of a split, and any predictions."""

    def on_measurement(self, result: Measured) -> None:
        """Report the values of an entry in `Evaluations`, after `on_evaluation` for the held-out split."""

    def on_fault(self, fault: Fault) -> None:
        """Report a fault. The run then continues, unless the response is to stop it."""

    def on_end(self, end: RunEnd) -> None:
        """Report the results, after the last epoch has been saved."""

    def close(self) -> None:
        """Release files, threads and servers."""
