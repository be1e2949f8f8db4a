"""The picture of the confusion matrix."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, which `--help` need not pay)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ignite_trainer.reporters.drawing import new_figure, short_name
from ignite_trainer.reporters.page.statistics import Counts, Floats
from ignite_trainer.support.formatting import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 72  # an inch
_LETTER_INCHES = 0.09  # average width of a letter
_DIGIT = 0.62  # width of a digit relative to the font size
_SMALLEST_FONT = 5.0
MOST_CLASSES = 60
"""Largest number of rows; with more classes, the picture shows those with the most errors."""


def confusion_figure(matrix: Counts, class_names: Sequence[str]) -> Figure:
    """Draw a matrix of counts `[K, K]`: a row for each true class, a column for each predicted class.

    A cell's colour is its share of the row; counts are written if they fit. The picture grows with the number
    of classes and the length of their names.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    chosen = chosen_classes(matrix)
    cells = np.ix_(chosen, chosen)
    shares, counts = row_shares(matrix)[cells], matrix[cells]
    names = [short_name(class_names[number]) for number in chosen]
    cell = min(max(0.2, 5.0 / len(names)), 1.2)  # inches; a name of nine points needs 0.2
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
    """Return the indices of the classes to draw, in order: all, or those with the most errors."""
    if len(matrix) <= MOST_CLASSES:
        return np.arange(len(matrix))
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    most = min(MOST_CLASSES, max(2, np.count_nonzero(errors)))
    return np.sort(np.argsort(-errors, kind="stable")[:most])


def row_shares(matrix: Counts) -> Floats:
    """Divide each count by the sum of its row; 0 in a row without samples."""
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
    if size < _SMALLEST_FONT:
        return
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.4 else "black"
        text = axes.text(column, row, str(counts[row, column]), color=colour, fontsize=size)
        text.set(ha="center", va="center_baseline")
        text.set_in_layout(False)  # laying out thousands of texts takes long, and none needs extra room
