"""`curve.png` shows the reported values, is always complete, and is readable without colour."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from PIL import Image

from ignite_trainer.api.reporter import Best, Evaluated, RunEnd, RunStart, Split
from ignite_trainer.reporters import LearningCurve
from tests.ignite_trainer.reporters.events import evaluated, trained


def scored(epoch: int, value: float, split: Split = "test") -> Evaluated:
    return evaluated(epoch, split, {"Val. Acc.": value, "not in a window": 1.0})


def begun(run: RunStart) -> LearningCurve:
    reporter = LearningCurve()
    reporter.on_start(run)
    return reporter


@pytest.fixture
def curve(run: RunStart) -> LearningCurve:
    reporter = begun(run)
    for epoch, value in enumerate((0.1, 0.8, 0.7)):
        for iteration in (10 * epoch - 5, 10 * epoch):
            if iteration > 0:
                reporter.on_iteration(trained(iteration, 10 / iteration, Cost=20 / iteration))
        reporter.on_evaluation(scored(epoch, value + 0.1, "train"))
        reporter.on_evaluation(scored(epoch, value))
    return reporter


def drawn(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_lines_show_the_reported_values(curve: LearningCurve) -> None:
    loss, performance, cost = curve.figure().axes
    assert list(drawn(loss).values()) == [([5, 10, 15, 20], [2.0, 1.0, 10 / 15, 0.5])]
    assert drawn(performance) == {
        "Val. Acc. Train.": ([0, 1, 2], pytest.approx([0.2, 0.9, 0.8])),
        "Val. Acc. Eval.": ([0, 1, 2], [0.1, 0.8, 0.7]),
        "chosen on held-out split: 0.8000, epoch 1": ([1], [0.8]),
    }
    assert drawn(cost) == {"Cost Train.": ([0.5, 1.0, 1.5, 2.0], [4.0, 2.0, 20 / 15, 1.0])}


def test_titles_axes_and_legend_come_from_the_windows(curve: LearningCurve, run: RunStart) -> None:
    figure = curve.figure()
    loss, performance, _ = figure.axes
    assert figure.get_suptitle() == run.name
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Iteration", "Loss (running average)")
    assert performance.get_title() == "Performance"
    assert (performance.get_xlabel(), performance.get_ylabel()) == ("#Epochs", "Accuracy")
    legend = performance.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["Val. Acc. Train.", "Val. Acc. Eval.", "chosen on held-out split: 0.8000, epoch 1"]


def test_training_and_held_out_lines_differ_in_more_than_colour(curve: LearningCurve) -> None:
    train, held_out, best = curve.figure().axes[1].lines
    assert train.get_linestyle() != held_out.get_linestyle()
    assert train.get_markerfacecolor() != held_out.get_markerfacecolor()
    assert train.get_color() == held_out.get_color()
    assert best.get_marker() == "*"


def test_the_end_of_the_run_determines_the_best_epoch(curve: LearningCurve) -> None:
    best = Best(label="Val. Acc.", value=0.7, epoch=2, checkpoint=None)
    curve.on_end(RunEnd(last_epoch=2, last={}, best=(best,), last_checkpoint=None, seconds=1.0))
    assert drawn(curve.figure().axes[1])["chosen on held-out split: 0.7000, epoch 2"] == ([2], [0.7])


@pytest.mark.parametrize(("best", "epoch"), [("max", 1), ("min", 2), ("max", 0)])
def test_the_best_epoch_so_far_is_the_one_checkpoints_keep(run: RunStart, best: str, epoch: int) -> None:
    line = {"line_label": "Val. Acc.", "is_checkpoint": True, "best": best}
    reporter = begun(dataclasses.replace(run, protocol={"Metrics": {"Performance": {"lines": [line]}}}))
    values = (0.9 if epoch == 0 or best == "min" else 0.0, 0.8, 0.7, 0.75)
    for number, value in enumerate(values):
        reporter.on_evaluation(scored(number, value))
    assert f"chosen on held-out split: {values[epoch]:.4f}, epoch {epoch}" in drawn(reporter.figure().axes[1])


def test_the_plot_is_complete_after_every_evaluation(run: RunStart) -> None:
    reporter = begun(run)
    sizes = []
    for epoch in range(2):
        reporter.on_evaluation(scored(epoch, 0.5))
        with Image.open(run.folder / "curve.png") as picture:
            picture.verify()
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]
    assert min(sizes[0]) > 400
    assert [path.name for path in run.folder.iterdir()] == ["curve.png"]


def test_non_finite_values_are_gaps(run: RunStart) -> None:
    reporter = begun(run)
    reporter.on_iteration(trained(10, math.nan))
    for epoch, value in enumerate((math.nan, math.inf, 0.5)):
        reporter.on_evaluation(scored(epoch, value))
    _, accuracy = drawn(reporter.figure().axes[1])["Val. Acc. Eval."]
    assert accuracy == pytest.approx([math.nan, math.nan, 0.5], nan_ok=True)
    assert "chosen on held-out split: 0.5000, epoch 2" in drawn(reporter.figure().axes[1])


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ((0.5, 0.5, 0.5), "chosen on held-out split: 0.5000, epoch 1"),
        ((0.6, 0.5, 0.5), "chosen on held-out split: 0.6000, epoch 0"),
    ],
)
def test_the_first_of_equal_trained_epochs_is_marked(
    run: RunStart, values: tuple[float, ...], label: str
) -> None:
    reporter = begun(run)
    for epoch, value in enumerate(values):
        reporter.on_evaluation(scored(epoch, value))
    assert label in drawn(reporter.figure().axes[1])


def test_a_resumed_run_marks_the_best_epoch_of_its_checkpoints(run: RunStart) -> None:
    history = [scored(epoch, value) for epoch, value in enumerate((0.9, 0.8, 0.7))]
    # Not epoch 0: no file has its weights.
    kept = Best(label="Val. Acc.", value=0.8, epoch=1, checkpoint=None)
    reporter = LearningCurve()
    reporter.on_resume(dataclasses.replace(run, best=(kept,)), history)
    assert drawn(reporter.figure().axes[1])["chosen on held-out split: 0.8000, epoch 1"] == ([1], [0.8])
    reporter.on_evaluation(scored(3, 0.85))
    assert drawn(reporter.figure().axes[1])["chosen on held-out split: 0.8500, epoch 3"] == ([3], [0.85])


@pytest.mark.parametrize("count", range(8))
def test_any_number_of_windows_is_drawn(run: RunStart, count: int) -> None:
    reporter = begun(dataclasses.replace(run, windows=(run.windows * 4)[:count], epochs=0))
    assert len(reporter.figure().axes) == 1 + count


def test_an_interrupted_run_leaves_a_plot_of_its_loss(run: RunStart) -> None:
    reporter = begun(run)
    reporter.on_iteration(trained(10, 1.0))
    assert not (run.folder / "curve.png").exists()
    reporter.close()
    assert (run.folder / "curve.png").exists()


@pytest.mark.parametrize("epochs", [2, 26, 50, 200])
def test_the_markers_of_many_epochs_leave_their_line_visible(run: RunStart, epochs: int) -> None:
    reporter = begun(dataclasses.replace(run, epochs=epochs))
    for window in run.windows:
        for line in window.lines:
            reporter._points[line] = [(epoch, 0.5) for epoch in range(epochs + 1)]
    curve: Any = reporter.figure().axes[1].lines[0]
    marked = len(curve.get_xdata()[:: curve.get_markevery()])
    assert marked == epochs + 1 if epochs < 26 else 10 <= marked <= 26
