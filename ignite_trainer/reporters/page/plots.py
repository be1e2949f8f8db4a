"""Plots of predictions: confusion matrix, accuracy of each class, and reliability diagram."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, which `--help` need not pay)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ignite_trainer.reporters.drawing import COLOURS, GREY, dress, new_figure, short_name
from ignite_trainer.reporters.page.statistics import Calibration, Counts, Floats, accuracy_interval
from ignite_trainer.support.formatting import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _RED = COLOURS[:2]
_POINTS = 72  # per inch
_LETTER_INCHES = 0.09  # average width of a letter
_DIGIT = 0.62  # width of a digit relative to the font size
_MIN_FONT_SIZE = 5.0
_ROW_INCHES = 0.2
MAX_CLASSES_IN_MATRIX = 60
"""Maximum number of rows; if there are more classes, the figure shows those with the most errors."""
MAX_BARS = 100
"""Maximum number of bars; if there are more classes, the figure shows those with the lowest values."""


def confusion_figure(matrix: Counts, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix.

    A cell's colour shows its share of the row; counts are written into the cells if they fit. The figure
    grows with the number of classes and the length of their names.

    Args:
        matrix: number of samples of each true class (row) and predicted class (column), `[K, K]`.
        class_names: names of the K classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    chosen = chosen_classes(matrix)
    cells = np.ix_(chosen, chosen)
    shares, counts = row_shares(matrix)[cells], matrix[cells]
    names = [short_name(class_names[number]) for number in chosen]
    cell = min(max(0.2, 5.0 / len(names)), 1.2)  # inches; a name in 9-point type needs 0.2
    side, name_inches = cell * len(names), _LETTER_INCHES * max(map(len, names))
    upright = name_inches > cell
    height = side + (name_inches if upright else 0.2) + 1.2
    figure = new_figure(1.03 * side + name_inches + 1.9, height, dpi=150)
    axes = figure.subplots()
    # A power below 1 makes one error in forty visible.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.6, vmin=0, vmax=1))
    _write_counts(axes, counts, shares, cell)
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    points = 11 if side < 7 else 14
    axes.set_xlabel("Predicted class", fontsize=points)
    axes.set_ylabel("True class", fontsize=points, labelpad=8)
    axes.set_title(title_of(matrix, drawn=len(names)), fontsize=points)
    between = np.arange(0.5, len(names) - 1)  # faint lines from each name to its cells
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(
        image, ax=axes, format=PercentFormatter(1), fraction=0.03, shrink=0.6, aspect=25, pad=0.02
    )
    bar.set_label("share of the row", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def chosen_classes(matrix: Counts) -> Counts:
    """Return the indices of the classes to draw: all, or those with the most errors, in ascending order."""
    if len(matrix) <= MAX_CLASSES_IN_MATRIX:
        return np.arange(len(matrix))
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    most = min(MAX_CLASSES_IN_MATRIX, max(2, np.count_nonzero(errors)))
    return np.sort(np.argsort(-errors, kind="stable")[:most])


def row_shares(matrix: Counts) -> Floats:
    """Divide each count by the sum of its row; rows without samples stay 0."""
    shares: Floats = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return shares


def title_of(matrix: Counts, *, drawn: int) -> str:
    """Return a title with the accuracy and, if not all classes are drawn, a second line that says so."""
    samples = matrix.sum()
    title = f"{samples:,} samples, {percent(matrix.trace() / samples)}% correct"
    if drawn < len(matrix):
        title += f"\nthe {drawn} of {len(matrix)} classes most often confused"
    return title


def _write_counts(axes: Axes, counts: Counts, shares: Floats, cell_inches: float) -> None:
    digits = len(str(counts.max()))
    size = min(10.0, 0.55 * cell_inches * _POINTS, 0.9 * cell_inches * _POINTS / (_DIGIT * digits))
    if size < _MIN_FONT_SIZE:
        return
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.4 else "black"
        text = axes.text(column, row, str(counts[row, column]), color=colour, fontsize=size)
        text.set(ha="center", va="center_baseline")
        text.set_in_layout(False)  # laying out thousands of texts takes long, and none needs extra room


def classes_figure(
    values: Floats, notes: Sequence[str], class_names: Sequence[str], *, measure: str
) -> Figure:
    """Draw a bar for each class that has a value, with the highest at the top.

    Args:
        values: value of each class, `[K]`, 0..1; classes with NaN are not drawn.
        notes: text next to each bar, such as "37 of 40".
        class_names: names of the K classes.
        measure: name of the values, for the title.
    """
    from matplotlib.ticker import PercentFormatter

    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(-values[known], kind="stable")][-MAX_BARS:]
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
    """Draw a reliability diagram above a histogram of the confidences."""
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
