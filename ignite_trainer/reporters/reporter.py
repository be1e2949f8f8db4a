"""What a reporter is told about a run. Reporters write things down; nothing they do can stop a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, PlainSerializer

from ignite_trainer.evaluation import FigureTable
from ignite_trainer.exhibit import Gallery
from ignite_trainer.predictions import Predictions

Split = Literal["train", "test"]

Figure = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
"""A number that may be not finite, for which JSON has null."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of a window: a metric of the protocol's `Metrics` section on one split."""

    key: str
    """Name of the value in `Evaluated.metrics` or `Iteration.metrics`: the line's label in the protocol."""
    label: str
    """What people read, such as "Val. Acc. Eval."."""
    split: Split
    by_iteration: bool = False


@dataclass(frozen=True, kw_only=True)
class Window:
    """One chart of the dashboard: a window of the protocol's `Metrics` section."""

    name: str
    x_label: str
    y_label: str
    width: int
    height: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Best:
    """One of the best held-out values of a metric marked `is_checkpoint`."""

    label: str
    value: Figure
    epoch: int
    """0: before the first step."""
    checkpoint: Path | None
    """Its weights; in `result.json` the name of the file in the folder of checkpoints."""

    def rank(self, *, better: Literal["max", "min"]) -> tuple[float, bool]:
        """Return what orders epochs, the best last.

        A value that is not finite is the worst. Of equal values, that of a trained epoch is better than that
        of epoch 0; of trained epochs, whoever compares them keeps the earlier.
        """
        if not math.isfinite(self.value):
            return -math.inf, self.epoch > 0
        return (self.value if better == "max" else -self.value), self.epoch > 0


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What is known before the first step."""

    folder: Path
    """The run's own folder; it exists."""
    name: str
    """Name of the experiment with its suffix, and of the run: for titles."""
    protocol: Mapping[str, Any]
    """The resolved protocol as JSON types."""
    environment: Mapping[str, Any]
    """Versions, device, seed, revision: as written to `environment.json`."""
    facts: Mapping[str, str]
    """The start table, row by row: device, parameters by rule, data set sizes, output folder."""
    windows: tuple[Window, ...]
    epochs: int
    iterations_per_epoch: int
    sweep: str | None = None
    """Name of the sweep that the run belongs to."""
    best: tuple[Best, ...] = ()
    """The best epochs so far of a run that goes on, by the files of weights that it kept."""
    caution: str = ""
    """What must be said wherever the figures of the run are shown."""
    gallery: Gallery = field(default_factory=Gallery)
    """What can be shown of samples and model; to be asked in the methods of a reporter, not in a thread."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Training progress, every `Setup.log_interval` steps and after the last step of each epoch."""

    epoch: int
    """From 1."""
    iteration: int
    """Since the start of training, from 1."""
    loss: float
    """Running average of the training loss."""
    learning_rates: tuple[float, ...]
    """One for each optimizer group."""
    samples_per_second: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Lines with `"update_rate": "iteration"`, by label."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One pass over a split."""

    epoch: int
    """0 before the first epoch."""
    iteration: int
    split: Split
    metrics: Mapping[str, float]
    """By the label in the protocol, such as "Val. Acc."."""
    seconds: float
    predictions: Predictions | None = None
    """Of the held-out split, where the task scores classes."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an entry of the protocol's `Evaluations` found in a pass over the held-out split."""

    epoch: int
    """0 before the first epoch."""
    name: str
    """Key of the entry."""
    table: FigureTable


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that went wrong in a run, and what the run did about it."""

    epoch: int
    iteration: int
    what: str
    """Such as "The loss is nan"."""
    done: str
    """Such as "the step is left out"."""
    samples: tuple[str, ...] = ()
    """Names of all samples that it is about."""


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """What a finished run leaves."""

    last_epoch: int
    last: Mapping[str, float]
    """Held-out metrics of the last evaluation, by label."""
    best: tuple[Best, ...]
    last_checkpoint: Path | None
    seconds: float
    faults: Mapping[str, int] = field(default_factory=dict)
    """How often what went wrong and was lived with, such as {"steps left out": 2}."""


Event = Iteration | Evaluated | Measured
"""What a log keeps of a run."""


class Reporter:
    """Base of all reporters: every method does nothing unless overridden.

    `close` is called once however the run ends; the others in the order of the run.

    Attributes:
        section: name of a protocol section whose keys are arguments of the class, or None.
    """

    section: ClassVar[str | None] = None

    def on_start(self, run: RunStart) -> None:
        """The run is built and checked; the first evaluation follows."""

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """The run goes on where it stopped; comes instead of `on_start`.

        `history` is what `metrics.jsonl` keeps of it, up to the state it goes on from, without predictions.
        What is made anew from the beginning is told all of it once more; a reporter whose file still has it
        overrides this.
        """
        self.on_start(run)
        for event in history:
            if isinstance(event, Iteration):
                self.on_iteration(event)
            elif isinstance(event, Evaluated):
                self.on_evaluation(event)
            else:
                self.on_measurement(event)

    def on_iteration(self, step: Iteration) -> None:
        """Training steps are done: `Setup.log_interval`, or what was left of the epoch."""

    def on_evaluation(self, result: Evaluated) -> None:
        """A split was evaluated."""

    def on_measurement(self, result: Measured) -> None:
        """An entry of `Evaluations` has its figures of the pass that was just evaluated."""

    def on_fault(self, fault: Fault) -> None:
        """Something went wrong; the run goes on unless an error follows."""

    def on_end(self, end: RunEnd) -> None:
        """The last epoch is done and everything is saved."""

    def close(self) -> None:
        """Release what is held: files, threads, servers."""
