"""The events of a run, and the base class of reporters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer

from ignite_trainer.api.media import Gallery
from ignite_trainer.api.predictions import Predictions

Split = Literal["train", "test"]
"""The training set or the held-out set."""

Figure = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: float(value) if math.isfinite(value) else None, when_used="json"),
]
"""A float that JSON can hold: written as null if it is not finite; null is read as NaN."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: a metric of the protocol's `Metrics` section on one split."""

    key: str
    """Key of its values in `Evaluated.metrics` or `Iteration.metrics`: the label in the protocol."""
    label: str
    """Name to show, such as "Val. Acc. Eval."."""
    split: Split
    by_iteration: bool = False
    """Whether it has a value for each `Iteration`, instead of one for each `Evaluated`."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A chart: one window of the protocol's `Metrics` section."""

    name: str
    x_label: str
    y_label: str
    width: int
    """Pixels on the dashboard."""
    height: int
    """Pixels on the dashboard."""
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best held-out value so far of a metric marked `is_checkpoint`."""

    label: str
    """Label of the metric in the protocol."""
    value: Figure
    epoch: int
    """Epoch that reached the value; 0 is before the first step."""
    checkpoint: Path | None
    """File with the weights of that epoch, if they were kept; only its name in `result.json`."""

    def rank(self, *, better: Literal["max", "min"]) -> tuple[float, bool]:
        """Return a sort key that puts the best epoch last.

        A value that is not finite is the worst. A trained epoch ranks above epoch 0 with the same value; two
        trained epochs with the same value rank equal, and the earlier one is kept.
        """
        if not math.isfinite(self.value):
            return -math.inf, self.epoch > 0
        return (self.value if better == "max" else -self.value), self.epoch > 0


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """A run that is about to take its first step."""

    folder: Path
    """Folder of the run; it exists."""
    name: str
    """Title of the run: name of the experiment with its suffix, and name of the folder."""
    protocol: Mapping[str, Any]
    """The resolved protocol as JSON types."""
    environment: Mapping[str, Any]
    """Versions, device, seed and revision, as in `environment.json`."""
    facts: Mapping[str, str]
    """Rows of the start table: device, parameters by rule, sizes of the data sets, folder."""
    windows: tuple[Window, ...]
    """Charts of the protocol's `Metrics` section."""
    epochs: int
    """Epochs to train in all; 0 if the run only evaluates."""
    iterations_per_epoch: int
    sweep: str | None = None
    """Name of the sweep that the run belongs to, if any."""
    best: tuple[Best, ...] = ()
    """Best values so far of a resumed run."""
    caution: str = ""
    """Warning to show wherever the figures of the run are shown; empty if there is none."""
    gallery: Gallery = field(default_factory=Gallery)
    """Pictures and sounds of samples and model. Call it within the methods of a reporter, not in a thread."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Training progress, every `Setup.log_interval` steps and after the last step of an epoch."""

    event: Literal["iteration"] = "iteration"
    epoch: int
    """Current epoch, from 1."""
    iteration: int
    """Steps since the start of training, from 1."""
    split: Literal["train"] = "train"
    loss: Figure
    """Running average of the training loss."""
    learning_rates: tuple[Figure, ...]
    """Learning rate of each optimizer group."""
    samples_per_second: Figure
    """Training speed since the last `Iteration`."""
    metrics: Mapping[str, Figure] = field(default_factory=dict)
    """Values of the lines with `"update_rate": "iteration"`, by their label in the protocol."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Result of one pass over a split."""

    event: Literal["evaluation"] = "evaluation"
    epoch: int
    """Epochs trained so far; 0 is before the first step."""
    iteration: int
    """Steps trained so far."""
    split: Split
    metrics: Mapping[str, Figure]
    """Values by label in the protocol, such as "Val. Acc."."""
    seconds: Figure
    """Duration of the pass."""
    predictions: Annotated[InstanceOf[Predictions] | None, Field(exclude=True)] = None
    """Scores of every sample of the held-out split, if the task scores classes; not written to the log."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of an entry of the protocol's `Evaluations` after a pass over the held-out split."""

    event: Literal["measurement"] = "measurement"
    epoch: int
    """Epochs trained so far; 0 is before the first step."""
    name: str
    """Key of the entry."""
    split: Literal["test"] = "test"
    table: Mapping[str, Mapping[str, Figure]]
    """Figures by row and column."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that went wrong without stopping the run, and the response to it."""

    event: Literal["fault"] = "fault"
    epoch: int
    iteration: int
    what: str
    """Description, such as "The loss is nan"."""
    done: str
    """Response, such as "the step is left out"."""
    samples: tuple[str, ...] = ()
    """Names of the samples concerned."""


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """Result of a finished run."""

    event: Literal["end"] = "end"
    last_epoch: Annotated[int, Field(alias="epoch")]
    split: Literal["test"] = "test"
    last: Annotated[Mapping[str, Figure], Field(alias="metrics")]
    """Held-out metrics of the last evaluation, by label in the protocol."""
    best: tuple[Best, ...]
    last_checkpoint: Path | None
    """File with the whole state after the last epoch, if the run trained."""
    seconds: Figure
    """Duration of the run, over all its sessions."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Number of faults of each kind, such as {"steps left out": 2}."""


Event = Iteration | Evaluated | Measured
"""An event that is replayed when a run is resumed."""


class Reporter:
    """Base class of reporters: override the methods for the events of interest.

    A run calls `on_start` or `on_resume` once, then a method for each event in order, `on_end` if the run
    finishes, and `close` in any case. Only the main process has reporters. If a reporter raises an exception,
    that is logged and the run continues without the reporter.

    Attributes:
        section: protocol section whose keys are arguments of the class, such as "Visdom"; None without one.
    """

    section: ClassVar[str | None] = None

    def on_start(self, run: RunStart) -> None:
        """Prepare for a new run, which is built and checked; the first evaluation follows."""

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Prepare for a resumed run; called instead of `on_start`.

        By default, starts again and replays the history. Override this if the output already has the history.

        Args:
            run: describes the run.
            history: earlier events from `metrics.jsonl`, without predictions.
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
        """Report training progress, every `Setup.log_interval` steps and at the end of an epoch."""

    def on_evaluation(self, result: Evaluated) -> None:
        """Report the metrics of a split, and predictions if the task makes some."""

    def on_measurement(self, result: Measured) -> None:
        """Report the figures of an entry of `Evaluations`; follows `on_evaluation` of the held-out split."""

    def on_fault(self, fault: Fault) -> None:
        """Report something that went wrong; the run continues unless it raises an error next."""

    def on_end(self, end: RunEnd) -> None:
        """Report the result, after the last epoch was saved."""

    def close(self) -> None:
        """Release files, threads and servers."""
