"""`curve.png`: a figure of the loss by iteration and of every window of metrics by epoch."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, which `--help` need not pay)

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ignite_trainer.api import file_names
from ignite_trainer.api.reporter import (
    Best,
    Evaluated,
    Event,
    Iteration,
    Line,
    Reporter,
    RunEnd,
    RunStart,
    Window,
)
from ignite_trainer.reporters.drawing import COLOURS, GREY, dress, new_figure, plain, save
from ignite_trainer.support.formatting import title_of_best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]

_MAX_MARKERS = 26  # more markers would hide the line


class LearningCurve(Reporter):
    """Redraws `curve.png` in the run's folder after every evaluation.

    Lines of the held-out split are solid with filled markers; those of the training split are dashed, and
    those of the validation split dotted, with hollow markers. All lines of a metric have the same colour. For
    each metric marked `is_checkpoint`, a star marks the held-out value at the best epoch. The old figure is
    kept until the new figure is complete.
    """

    _run: RunStart

    def __init__(self) -> None:
        self._loss: Points = []
        self._points: defaultdict[Line, Points] = defaultdict(list)
        self._best: dict[str, Best] = {}
        self._better: dict[str, Literal["max", "min"]] = {}
        self._validation: Evaluated | None = None
        self._undrawn = False
        self._replaying = False

    def on_start(self, run: RunStart) -> None:
        """Find the metrics whose best value gets a star."""
        self._run = run
        self._better = {
            line["line_label"]: line.get("best", "max")
            for window in run.protocol.get("Metrics", {}).values()
            for line in window["lines"]
            if line.get("is_checkpoint")
        }

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Store the values of the history, then draw once."""
        self._replaying = True
        super().on_resume(run, history)
        self._replaying = False
        self._best = {best.label: best for best in run.best}
        self._draw()

    def on_iteration(self, step: Iteration) -> None:
        """Store the loss and the metrics by iteration."""
        self._loss.append((step.iteration, step.loss))
        epoch = step.iteration / max(1, self._run.iterations_per_epoch)
        for line in self._lines():
            if line.by_iteration and line.key in step.metrics:
                self._points[line].append((epoch, step.metrics[line.key]))
        self._undrawn = True

    def on_evaluation(self, result: Evaluated) -> None:
        """Store the values and redraw."""
        for line in self._lines():
            if line.split == result.split and not line.by_iteration and line.key in result.metrics:
                self._points[line].append((result.epoch, result.metrics[line.key]))
        if result.split == "validation":
            self._validation = result
        if result.split == "test" and self._run.epochs:
            for label in self._better.keys() & result.metrics.keys():
                self._mark_if_best(label, result)
        if not self._replaying:
            self._draw()

    def on_end(self, end: RunEnd) -> None:
        """Redraw with the best epochs of the finished run."""
        self._best = {best.label: best for best in end.best}
        self._draw()

    def close(self) -> None:
        """Draw the last values of an interrupted run."""
        if self._undrawn:
            self._draw()

    def figure(self) -> Figure:
        """Draw the run so far."""
        windows = self._run.windows
        panels = 1 + len(windows)
        columns = 2 if panels == 4 else min(panels, 3)
        rows = math.ceil(panels / columns)
        figure = new_figure(5.6 * columns, 0.6 + 3.9 * rows)
        figure.suptitle(plain(self._run.name), fontsize=13, fontweight="bold", wrap=True)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        self._draw_loss(grid[0])
        for axes, window in zip(grid[1:], windows, strict=False):
            self._draw_window(axes, window)
        for axes in grid[panels:]:
            axes.remove()
        return figure

    def _mark_if_best(self, label: str, result: Evaluated) -> None:
        """Mark the epoch if it is the best so far; its checkpoint has not been saved yet."""
        validation = self._validation.metrics if self._validation else None
        new = Best.of(label, result.epoch, held_out=result.metrics, validation=validation)
        better = self._better[label]
        if label not in self._best or new.rank(better=better) > self._best[label].rank(better=better):
            self._best[label] = new

    def _draw(self) -> None:
        save(self.figure(), self._run.folder / file_names.CURVE)
        self._undrawn = False

    def _lines(self) -> Iterable[Line]:
        return (line for window in self._run.windows for line in window.lines)

    def _draw_loss(self, axes: Axes) -> None:
        dress(axes, "Training loss", "Iteration", "Loss (running average)")
        _span(axes, self._run.epochs * self._run.iterations_per_epoch)
        iterations, losses = _columns(self._loss)
        marker = "o" if len(losses) < 20 else ""
        axes.plot(iterations, losses, color=GREY, linewidth=1.6, marker=marker, markersize=3.5)

    def _draw_window(self, axes: Axes, window: Window) -> None:
        dress(axes, window.name, window.x_label, window.y_label)
        _span(axes, self._run.epochs)
        keys = list(dict.fromkeys(line.key for line in window.lines))
        for line in window.lines:
            colour = COLOURS[keys.index(line.key) % len(COLOURS)]
            held_out = line.split == "test"
            epochs, values = _columns(self._points[line])
            axes.plot(
                epochs,
                values,
                label=plain(line.label),
                color=colour,
                linestyle={"train": "--", "validation": ":", "test": "-"}[line.split],
                linewidth=1.8 if held_out else 1.3,
                marker="" if line.by_iteration else "o",
                markevery=math.ceil(len(epochs) / _MAX_MARKERS) or 1,
                markersize=4.5,
                markerfacecolor=colour if held_out else "white",
            )
            best = self._best.get(line.key) if held_out else None
            if best is not None and math.isfinite(best.value):
                axes.plot(
                    [best.epoch],
                    [best.value],
                    label=f"{title_of_best([best.chosen_on])}: {best.value:.4f}, epoch {best.epoch}",
                    color=colour,
                    linestyle="",
                    marker="*",
                    markersize=14,
                    markeredgecolor="black",
                    markeredgewidth=0.8,
                    zorder=4,
                )
        if window.lines:
            axes.legend(fontsize=9, framealpha=0.85)


def _span(axes: Axes, end: int) -> None:
    """Scale the x-axis to the whole run, including future epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11, steps=[1, 2, 5, 10]))
    axes.set_xlim(-0.03 * max(1, end), 1.03 * max(1, end))


def _columns(points: Points) -> tuple[list[float], list[float]]:
    # NaN leaves a gap in the line; infinity would stretch the axis.
    return [x for x, _ in points], [y if math.isfinite(y) else math.nan for _, y in points]
