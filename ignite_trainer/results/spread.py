"""Mean and sample standard deviation of the figures of several runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

from ignite_trainer.results.record import RunRecord


class Spread(NamedTuple):
    """Mean and deviation of several figures.

    Attributes:
        mean: arithmetic mean.
        deviation: sample standard deviation, n - 1 in the denominator; None of a single figure.
        n: number of figures.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Average figures; None if there are none, or one is missing."""
        present: list[float] = []
        for value in values:
            if value is None:
                return None
            present.append(value)
        if not present:
            return None
        deviation = statistics.stdev(present) if len(present) > 1 else None
        return cls(statistics.fmean(present), deviation, len(present))

    @classmethod
    def over_folds(cls, values: Iterable[tuple[Hashable, float | None]]) -> Spread | None:
        """Average figures, each given with what its run held out, so that every fold counts alike.

        The seeds of a fold are averaged first; mean and deviation are those of the folds, and n is their
        number. Where all runs held out the same, they are those of the runs. None as in `of`.
        """
        folds: dict[Hashable, list[float | None]] = {}
        for held_out, value in values:
            folds.setdefault(held_out, []).append(value)
        if len(folds) == 1:
            return cls.of(*folds.values())
        means = [cls.of(fold) for fold in folds.values()]
        return cls.of(mean.mean if mean else None for mean in means)

    def text(self, write: Callable[[float], str]) -> str:
        """Return the mean and, of several figures, ± the deviation."""
        return write(self.mean) + ("" if self.deviation is None else f" ± {write(self.deviation)}")


class Figures(NamedTuple):
    """A metric over several runs; None where a run has none, or one that is not finite.

    Attributes:
        last: after the last epoch.
        best: at the epoch that is best on what is held out.
    """

    last: Spread | None
    best: Spread | None

    @classmethod
    def of(cls, records: Iterable[RunRecord], label: str) -> Figures:
        """Average a metric over runs so that every fold counts alike."""
        values = [(record.held_out, record.value(label)) for record in records]
        last = Spread.over_folds((held_out, last) for held_out, (last, _) in values)
        best = Spread.over_folds((held_out, best) for held_out, (_, best) in values)
        return cls(last, best)

    def to_json(self) -> dict[str, Any]:
        """Return both as JSON types."""
        return {name: spread._asdict() if spread else None for name, spread in self._asdict().items()}
