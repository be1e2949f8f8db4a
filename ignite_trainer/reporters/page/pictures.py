"""Pictures of predictions: accuracy of each class, and the reliability diagram."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, which `--help` need not pay)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ignite_trainer.reporters.drawing import COLOURS, GREY, dress, new_figure, short_name
from ignite_trainer.reporters.page.statistics import Calibration, Floats, accuracy_interval
from ignite_trainer.support.formatting import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _RED = COLOURS[:2]
_ROW_INCHES = 0.2
MOST_CLASSES = 100
"""Largest number of bars; with more classes, the picture shows the lowest."""


def classes_figure(
    values: Floats, notes: Sequence[str], class_names: Sequence[str], *, measure: str
) -> Figure:
    """Draw a bar for each class that has a value, the highest at the top.

    Args:
        values: `[K]` in 0..1; NaN for a class to leave out.
        notes: text beside each bar, such as "37 of 40".
        class_names: names of the K classes.
        measure: name of the values.
    """
    from matplotlib.ticker import PercentFormatter

    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(-values[known], kind="stable")][-MOST_CLASSES:]
    rows = range(len(order))
    figure = new_figure(8.0, 1.3 + _ROW_INCHES * max(4, len(order)), dpi=150)
    axes = figure.subplots()
    lowest = f" (lowest {len(order)} of {len(known)})" if len(order) < len(known) else ""
    dress(axes, f"{measure} of each class{lowest}", "", "")
    axes.barh(rows, values[order], height=0.7, color=_BLUE)
    mean = float(values[known].mean())
    label = f"mean over classes: {percent(mean)}%"
    axes.axvline(mean, color=_RED, linewidth=1.4, linestyle="--", label=label)
    for row, number in enumerate(order):
        axes.text(1.015, row, notes[number], transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(rows, [short_name(class_names[number]) for number in order], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def calibration_figure(calibration: Calibration, *, multilabel: bool) -> Figure:
    """Draw a reliability diagram over a histogram of the confidences."""
    figure = new_figure(6.4, 7.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    count = int(calibration.counts.sum())
    what = "scores" if multilabel else "samples"
    title = f"Expected calibration error {calibration.error:.3f} ({count:,} {what})"
    dress(upper, title, "", "Share correct")
    _draw_reliability(upper, calibration)
    confidence = "Score of a class" if multilabel else "Confidence: highest score of a sample"
    dress(lower, "", confidence, what.capitalize())
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    lower.bar(edges[:-1], calibration.counts, width=edges[1], align="edge", color=GREY, edgecolor="white")
    mean, accuracy = calibration.mean_confidence, calibration.accuracy
    lower.axvline(mean, color=_RED, linestyle="--", label=f"mean confidence {percent(mean)}%")
    lower.axvline(accuracy, color=_BLUE, linestyle=":", label=f"share correct {percent(accuracy)}%")
    lower.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _draw_reliability(axes: Axes, calibration: Calibration) -> None:
    filled = np.flatnonzero(calibration.counts)
    counts, shares = calibration.counts[filled], calibration.shares[filled]
    intervals = [accuracy_interval(round(p * n), int(n)) for p, n in zip(shares, counts, strict=True)]
    whiskers = np.abs(np.transpose(intervals) - shares)  # [2, bins]: below and above
    width = 1 / len(calibration.counts)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle="--", label="perfect calibration")
    axes.bar(filled * width, shares, width=width, align="edge", color=_BLUE, alpha=0.25, edgecolor="white")
    axes.errorbar(
        calibration.confidences[filled],
        shares,
        yerr=whiskers,
        color=_BLUE,
        linestyle="",
        marker="o",
        markersize=5,
        elinewidth=1.2,
        capsize=2.5,
        label="bin, with 95 % interval",
    )
    axes.set_xlim(-0.015, 1.015)  # most confidences lie at an end
    axes.set_ylim(0, 1.02)
    axes.set_axisbelow(True)
