"""`result.json`: what a finished run reached, and from what, so that tables can be made of many runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ignite_trainer.api.reporter import Best, Figure
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.protocol.sections import PublishedFigure
from ignite_trainer.support.errors import ProtocolError


class RunRecord(BaseModel):
    """What a finished run reached.

    Attributes:
        name: `Setup.name`.
        suffix: `Setup.suffix`.
        variant: digest of `identity`.
        identity: what was computed: equal for runs whose figures may be averaged. Empty in older records.
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
        last: held-out metrics after the last epoch, by label.
        best: best epochs, by metric.
        evaluations: tables of the protocol's `Evaluations`, by name.
        multilabel: whether a sample of `predictions.csv` can have several classes, or none.
        published: figures that the metric may be compared with.
        checkpoint: the last one.
        revision: of the source.
        faults: what went wrong and was lived with: how often, by what it was.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    suffix: str | None = None
    variant: str
    identity: dict[str, Any] = {}
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
    last: dict[str, Figure]
    best: tuple[Best, ...]
    evaluations: dict[str, dict[str, dict[str, Figure]]]
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
        """Return a held-out metric after the last epoch, and at its best; None where none is finite."""
        best = next((entry.value for entry in self.best if entry.label == label), math.nan)
        last = self.last.get(label, math.nan)
        return last if math.isfinite(last) else None, best if math.isfinite(best) else None
