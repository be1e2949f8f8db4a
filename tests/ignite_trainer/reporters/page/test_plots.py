"""Plots of predictions name every class, grow with the number of classes, and have no overlapping texts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from ignite_trainer.reporters.page import statistics
from ignite_trainer.reporters.page.plots import (
    calibration_figure,
    classes_figure,
    confusion_figure,
)

NAMES = [f"{word} {thing}" for word in ("crackling", "pouring", "old") for thing in ("fire", "wood", "$5")]


def matrix_of(classes: int, *, samples: int = 8, errors: int = 2) -> Any:
    """Make a confusion matrix in which each class is mistaken for the next one `errors` times."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    numbers = np.arange(classes)
    matrix[numbers, numbers] = samples - errors
    matrix[numbers, (numbers + 1) % classes] += errors
    return matrix


def names_of(classes: int) -> list[str]:
    return [f"{NAMES[number % len(NAMES)]} {number}" for number in range(classes)]


def words(labels: Any) -> list[str]:
    return [label.get_text().replace(r"\$", "$") for label in labels]


def bars(axes: Any) -> list[tuple[float, float, float]]:
    return [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in axes.patches]


def boxes(figure: Any, labels: Any) -> list[Any]:
    """Return the positions of drawn texts, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [label.get_window_extent(canvas.get_renderer()) for label in labels]


def test_rows_of_the_confusion_matrix_are_true_classes_and_columns_predicted_ones() -> None:
    axes = confusion_figure(np.array([[3, 1], [0, 0]]), ["dog", "cat"]).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True class", "Predicted class")
    assert words(axes.get_yticklabels()) == words(axes.get_xticklabels()) == ["dog", "cat"]
    image = axes.images[0].get_array()
    assert image is not None
    assert image.tolist() == [[0.75, 0.25], [0, 0]]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "3", (1, 0): "1"}  # (column, row)
    assert axes.get_title() == "4 samples, 75.0% correct"


@pytest.mark.parametrize("letters", ["", " and some more", " WWWWWWWWWWWWWW"])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 50])
def test_every_class_is_named_on_both_sides_inside_the_plot(classes: int, letters: str) -> None:
    names = [name + letters for name in names_of(classes)]
    figure = confusion_figure(matrix_of(classes), names)
    axes = figure.axes[0]
    rows, columns = axes.get_yticklabels(), axes.get_xticklabels()
    assert words(rows) == words(columns) == names
    width, height = figure.get_size_inches() * figure.dpi
    drawn = boxes(figure, [*rows, *columns, axes.title, axes.xaxis.label, axes.yaxis.label])
    assert min(min(box.x0, box.y0) for box in drawn) >= 0
    assert max(box.x1 for box in drawn) <= width
    assert max(box.y1 for box in drawn) <= height
    if not letters:
        assert all(lower.y1 <= upper.y0 for upper, lower in pairwise(drawn[:classes]))
        assert all(left.x1 <= right.x0 for left, right in pairwise(drawn[classes : 2 * classes]))
    if not letters and classes > 1:  # at a width of 900 pixels, as on a web page, a name is eight pixels high
        assert float(rows[0].get_fontsize()) / 72 / figure.get_size_inches()[0] * 900 >= 8


def test_the_plot_grows_with_the_number_of_classes_and_their_names() -> None:
    sizes = [tuple(confusion_figure(matrix_of(k), names_of(k)).get_size_inches()) for k in (10, 30, 50)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    longer = confusion_figure(matrix_of(10), [f"a rather long name {k}" for k in range(10)])
    assert tuple(longer.get_size_inches()) > sizes[0]


@pytest.mark.parametrize(("samples", "written"), [(8, True), (9_999, True), (10**7, False)])
def test_counts_are_written_where_they_fit(samples: int, written: bool) -> None:
    figure = confusion_figure(matrix_of(50, samples=samples), names_of(50))
    axes = figure.axes[0]
    assert len(axes.texts) == (100 if written else 0)
    cell = np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0)[0]
    for box in boxes(figure, axes.texts[:3]):
        assert box.width <= abs(cell[0])
        assert box.height <= abs(cell[1])


def test_counts_stand_out_from_their_cells() -> None:
    matrix = np.array([[100 - errors, errors] for errors in (0, 30, 45, 55, 70)])
    matrix = np.pad(matrix, ((0, 0), (0, 3)))
    figure = confusion_figure(matrix, names_of(5))
    axes = figure.axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = (int(position) for position in text.get_position())
        cell = np.array(image.to_rgba(matrix[row, column] / 100))[:3]
        assert abs(np.mean(cell) - np.mean(to_rgb(text.get_color()))) > 0.3


def test_with_many_classes_only_confused_ones_are_drawn() -> None:
    matrix = np.diag(np.full(200, 5))
    matrix[7, 150] = matrix[30, 7] = 2
    axes = confusion_figure(matrix, [str(number) for number in range(200)]).axes[0]
    assert words(axes.get_yticklabels()) == ["7", "30", "150"]
    assert axes.get_title() == "1,004 samples, 99.6% correct\nthe 3 of 200 classes most often confused"
    image = axes.images[0].get_array()
    assert image is not None
    assert image[0].tolist() == pytest.approx([5 / 7, 0, 2 / 7])
    assert len(confusion_figure(matrix_of(200), names_of(200)).axes[0].get_yticks()) == 60


def test_long_names_are_cut_and_dollar_signs_start_no_mathematics() -> None:
    names = ["a name that is much longer than any that fits beside an image", "$x_{$\nover two lines"]
    figure = confusion_figure(matrix_of(2), names)
    assert words(figure.axes[0].get_yticklabels()) == [
        "a name that is much longer than…",
        "$x_{$ over two lines",
    ]
    FigureCanvasAgg(figure).draw()


def test_bars_are_sorted_and_classes_without_samples_have_none() -> None:
    values = np.array([0.5, np.nan, 1.0, 0.0])
    figure = classes_figure(values, ["1 of 2", "", "3 of 3", "0 of 4"], list("abcd"), measure="Accuracy")
    axes = figure.axes[0]
    assert words(axes.get_yticklabels()) == ["c", "a", "d"]
    assert [width for _, width, _ in bars(axes)] == [1.0, 0.5, 0.0]
    assert words(axes.texts) == ["3 of 3", "1 of 2", "0 of 4"]
    assert words(figure.legends[0].get_texts()) == ["mean over classes: 50.0%"]
    assert axes.get_title() == "Accuracy of each class"


def test_with_many_classes_only_the_lowest_have_bars() -> None:
    figure = classes_figure(np.linspace(1, 0, 130), [""] * 130, names_of(130), measure="Accuracy")
    axes = figure.axes[0]
    assert axes.get_title() == "Accuracy of each class (lowest 100 of 130)"
    assert words(axes.get_yticklabels()) == names_of(130)[30:]


@pytest.mark.parametrize("classes", [1, 2, 50])
def test_names_of_bars_do_not_overlap(classes: int) -> None:
    names = names_of(classes)
    figure = classes_figure(np.linspace(0, 1, classes), ["8 of 8"] * classes, names, measure="Accuracy")
    axes = figure.axes[0]
    drawn = boxes(figure, [*axes.get_yticklabels(), *axes.texts])
    assert min(box.x0 for box in drawn) >= 0
    assert max(box.x1 for box in drawn) <= figure.get_size_inches()[0] * figure.dpi
    for upper, lower in pairwise(drawn[:classes]):
        assert lower.y1 <= upper.y0


def test_the_reliability_diagram_holds_the_bins(predict: Any) -> None:
    scores = [[0.5, 0.3], [0.4, 0.1], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
    found = statistics.calibration(predict(scores, [0, 1, 0, 1, 1]), bins=2)
    assert found is not None
    upper, lower = calibration_figure(found, multilabel=False).axes
    assert upper.get_title() == f"Expected calibration error {found.error:.3f} (5 samples)"
    assert [height for _, _, height in bars(upper)] == pytest.approx([1 / 2, 2 / 3])
    points = upper.containers[1][0]
    assert points.get_xydata() == pytest.approx(np.array([[0.45, 1 / 2], [0.8, 2 / 3]]))
    whiskers = [line[:, 1] for line in upper.containers[1][2][0].get_segments()]
    expected = [statistics.accuracy_interval(1, 2), statistics.accuracy_interval(2, 3)]
    assert np.array(whiskers) == pytest.approx(np.array(expected))
    assert bars(lower) == [(0, 0.5, 2), (0.5, 0.5, 3)]
    assert lower.get_xlabel() == "Confidence: highest score of a sample"
