"""Metrics of a protocol, ignite's and ours, equal their definitions, in a run and by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ignite.metrics
import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from toy_research.protocols import run_toy
from toy_research.ranks import evaluate_points, on_ranks
from toy_research.watching import Notebook

from ignite_trainer.api.predictions import Predictions
from ignite_trainer.support.errors import RunFailed
from tests.utils.evaluations.captioned import Problem
from utils import metrics
from utils.evaluations import Querying
from utils.metrics import DPrime, MacroAccuracy, MacroROCAUC, MeanAveragePrecision, Retrieval


def evaluate(root: Path, kind: str, *, several: bool = False, **args: Any) -> tuple[float, Predictions]:
    """Evaluate a metric on the toy points, in batches of 8; return the value and the predictions."""
    line = {"line_label": "measured", "class": kind, "args": args}
    result = run_toy(
        root,
        Setup__epochs=0,
        Dataset={"class": "toy_research.embedding.Points", "args": {"several": several}},
        Task={"class": "toy_research.embedding.Embedding", "args": {"several": several}},
        Transforms=[],
        Metrics={"Performance": {"lines": [line]}},
    )
    (evaluated,) = Notebook.last.of("evaluation")
    return result.end.last["measured"], evaluated.predictions


def average_precision(scores: list[float], targets: list[bool]) -> float:
    """Compute the mean of the precisions at each positive of a ranking without ties."""
    ranked = [target for _, target in sorted(zip(scores, targets, strict=True), reverse=True)]
    precisions = [sum(ranked[:rank]) / rank for rank in range(1, len(ranked) + 1) if ranked[rank - 1]]
    return sum(precisions) / len(precisions)


def computed(metric: ignite.metrics.Metric, *batches: tuple[Any, Any]) -> float:
    metric.reset()
    for scores, targets in batches:
        metric.update((torch.tensor(scores), torch.tensor(targets)))
    return float(metric.compute())


# In a run


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_accuracy_counts_labels_among_the_k_highest_scores(tmp_path: Path, k: int) -> None:
    value, said = evaluate(tmp_path, "ignite.metrics.TopKCategoricalAccuracy", k=k)
    best = np.argsort(-said.scores, axis=1)[:, :k]
    assert value == pytest.approx(np.take_along_axis(said.targets, best, axis=1).any(axis=1).mean())


def test_mean_average_precision_averages_over_the_classes_that_samples_have(tmp_path: Path) -> None:
    value, said = evaluate(tmp_path, "utils.metrics.MeanAveragePrecision", several=True)
    assert said.targets.any(axis=0).tolist() == [True, True, True, False]
    assert said.targets.sum(axis=1).max() == 2
    expected = [average_precision(said.scores[:, c].tolist(), said.targets[:, c].tolist()) for c in (0, 1, 2)]
    assert value == pytest.approx(np.mean(expected))
    assert 0.4 < value < 1.0


def test_for_single_labels_mean_average_precision_ranks_each_class_against_the_rest(tmp_path: Path) -> None:
    value, said = evaluate(tmp_path, "utils.metrics.MeanAveragePrecision")
    expected = [average_precision(said.scores[:, c].tolist(), said.targets[:, c].tolist()) for c in (0, 1, 2)]
    assert value == pytest.approx(np.mean(expected))


def test_macro_accuracy_averages_over_the_classes_that_samples_have(tmp_path: Path) -> None:
    value, said = evaluate(tmp_path, "utils.metrics.MacroAccuracy")
    expected = [said.correct[said.targets[:, c]].mean() for c in (0, 1, 2)]
    assert value == pytest.approx(np.mean(expected))
    assert 0.4 < value < 1.0


def test_macro_accuracy_refuses_several_labels(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"MacroAccuracy takes one class per sample, targets \[N\]"):
        evaluate(tmp_path, "utils.metrics.MacroAccuracy", several=True)


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_the_right_order(tmp_path: Path) -> None:
    value, said = evaluate(tmp_path, "utils.metrics.MacroROCAUC", several=True)
    areas = []
    for c in (0, 1, 2):  # no sample has class 3
        positive, negative = (said.scores[said.targets[:, c] == has, c] for has in (True, False))
        areas.append(np.mean(positive[:, None] > negative) + np.mean(positive[:, None] == negative) / 2)
    assert value == pytest.approx(np.mean(areas))
    assert 0.5 < value < 1.0


def test_d_prime_belongs_to_the_mean_area(tmp_path: Path) -> None:
    value, said = evaluate(tmp_path, "utils.metrics.DPrime")
    area = roc_auc_score(said.targets[:, :3], said.scores[:, :3], average="macro")
    assert value == pytest.approx(math.sqrt(2) * norm.ppf(area))


@pytest.mark.parametrize(
    ("kind", "in_per_cent"), [("MeanAveragePrecision", True), ("MacroROCAUC", True), ("DPrime", False)]
)
def test_tables_show_map_and_auc_in_per_cent_and_d_prime_as_a_number(
    tmp_path: Path, kind: str, in_per_cent: bool
) -> None:
    line = {"line_label": "measured", "class": f"utils.metrics.{kind}", "is_checkpoint": True}
    result = run_toy(
        tmp_path,
        Setup__epochs=0,
        Dataset={"class": "toy_research.embedding.Points", "args": {"several": True}},
        Task={"class": "toy_research.embedding.Embedding", "args": {"several": True}},
        Transforms=[],
        Metrics={"Performance": {"lines": [line]}},
    )
    assert result.record.share is in_per_cent
    value = result.end.last["measured"]
    shown = f"{100 * value:.1f}" if in_per_cent else f"{value:.4f}"
    [table] = tmp_path.rglob("table.md")
    assert f"| {shown} (" in table.read_text()


@pytest.mark.processes
def test_two_processes_compute_the_metrics_of_one(tmp_path: Path) -> None:
    kinds = ["MeanAveragePrecision", "MacroROCAUC", "DPrime"]
    one = evaluate_points(tmp_path / "one", kinds)
    assert list(one) == kinds
    assert on_ranks(2, tmp_path, evaluate_points, tmp_path / "two", kinds) == [one, one]


# By hand


def test_average_precision_by_hand_over_two_batches() -> None:
    batches = (
        ([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5]], [[1, 0, 0], [0, 1, 0]]),
        ([[0.7, 0.6, 0.5], [0.6, 0.5, 0.5]], [[1, 0, 0], [0, 1, 0]]),
    )
    # The positives of classes 0 and 1 have ranks 1 and 3; class 2 has none and does not count.
    assert computed(MeanAveragePrecision(), *batches) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_samples_with_equal_scores_share_a_threshold() -> None:
    scores, targets = [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.1, 0.0]], [[1, 1], [0, 0], [0, 0], [1, 1]]
    # Class 0: recall 1/2 at precision 1/3, then recall 1 at 2/4. Class 1: recall 1 at 2/4.
    expected = ((1 / 2 * 1 / 3 + 1 / 2 * 2 / 4) + 2 / 4) / 2
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        batch = [scores[i] for i in order], [targets[i] for i in order]
        assert computed(MeanAveragePrecision(), batch) == pytest.approx(expected)


def test_average_precision_of_one_class_and_without_positives() -> None:
    scores = [[0.9], [0.2], [0.4]]
    assert computed(MeanAveragePrecision(), (scores, [[0], [0], [1]])) == pytest.approx(1 / 2)
    assert math.isnan(computed(MeanAveragePrecision(), (scores, [[0], [0], [0]])))


def test_areas_and_precisions_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied scores and rare classes, ranked a few columns at a time."""
    monkeypatch.setattr(metrics, "_MOST_RANKS", 3 * 400)
    random = np.random.default_rng(0)
    targets = (random.random((400, 10)) < np.linspace(0.01, 0.5, 10)).astype(int)
    scores = (targets + random.normal(size=targets.shape)).round(1).astype(np.float32)
    targets[:, 4], targets[:, 7] = 0, 1  # no positive, no negative
    both = [c for c in range(10) if c not in (4, 7)]
    area = roc_auc_score(targets[:, both], scores[:, both], average="macro")
    batches = [(scores[part].tolist(), targets[part].tolist()) for part in (slice(150), slice(150, 400))]
    assert computed(MacroROCAUC(), *batches) == pytest.approx(area, abs=1e-12)
    assert computed(DPrime(), *batches) == pytest.approx(math.sqrt(2) * norm.ppf(area), abs=1e-9)
    present = [c for c in range(10) if c != 4]
    precision = average_precision_score(targets[:, present], scores[:, present], average="macro")
    assert computed(MeanAveragePrecision(), *batches) == pytest.approx(precision, abs=1e-12)


def test_d_prime_is_the_distance_between_normal_distributions() -> None:
    random = np.random.default_rng(1)
    targets = np.arange(20_000) % 2
    scores = random.normal(loc=1.5 * targets).astype(np.float32)
    found = computed(DPrime(), (scores[:, None].tolist(), targets[:, None].tolist()))
    assert found == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize(
    ("area", "published"), [(0.899, 1.803), (0.916, 1.950), (0.946, 2.279), (0.963, 2.523), (0.959, 2.452)]
)
def test_d_prime_is_that_of_published_areas(area: float, published: float) -> None:
    """Pairs of AUC and d' of VGGSound's authors (hche11/VGGSound) and, the last one, of AudioSet's."""
    negatives = np.arange(1000) / 1000  # a positive above this share of them has this area
    scores = np.append(negatives, area - 0.0005)[:, None]
    targets = np.append(np.zeros(1000, int), 1)[:, None]
    assert computed(MacroROCAUC(), (scores.tolist(), targets.tolist())) == pytest.approx(area)
    rounded = [math.sqrt(2) * norm.ppf(area + error) for error in (-0.0005, 0.0005)]
    assert rounded[0] - 0.0005 <= published <= rounded[1] + 0.0005, "it belongs to the mean AUC"
    assert computed(DPrime(), (scores.tolist(), targets.tolist())) == pytest.approx(published, abs=0.012)


def test_areas_at_chance_of_perfect_scores_and_where_they_are_undefined() -> None:
    same = [[0.5, 0.5]] * 4
    targets = [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert computed(MacroROCAUC(), (same, targets)) == 0.5
    assert computed(DPrime(), (same, targets)) == pytest.approx(0.0, abs=1e-12)
    perfect = [[float(target) for target in row] for row in targets]
    assert computed(MacroROCAUC(), (perfect, targets)) == 1.0
    assert computed(DPrime(), (perfect, targets)) == math.inf
    classes = [0, 1, 0, 1]  # the same targets as class numbers
    assert computed(MacroROCAUC(), (perfect, classes)) == 1.0
    for undefined in (MacroROCAUC(), DPrime()):
        assert math.isnan(computed(undefined, (same, [[1, 0]] * 4)))
        assert math.isnan(computed(undefined, ([[math.nan, 0.5]] * 4, targets)))


def test_macro_accuracy_by_hand_over_two_batches() -> None:
    one_hot: Tensor = torch.eye(4)
    targets, predicted = [0, 0, 0, 0, 2, 2], [0, 0, 0, 3, 2, 0]
    batches = (
        (one_hot[predicted[:4]].tolist(), targets[:4]),
        (one_hot[predicted[4:]].tolist(), targets[4:]),
    )
    # Class 0: three of four. Class 2: one of two. No sample has class 1 or 3, though 3 is predicted.
    assert computed(MacroAccuracy(), *batches) == pytest.approx((3 / 4 + 1 / 2) / 2)
    # ignite counts classes 1 and 3 as 0.
    assert computed(ignite.metrics.Recall(average="macro"), *batches) == pytest.approx((3 / 4 + 1 / 2) / 4)


# Retrieval


@pytest.mark.parametrize("figure", ["mAP@10", "mAP@3", "mAP", "R@1", "R@5", "hit@1", "hit@5", "P@1"])
@pytest.mark.parametrize("direction", ["text -> audio", "audio -> text"])
def test_the_figure_that_chooses_an_epoch_is_that_of_querying(
    tmp_path: Path, figure: str, direction: str
) -> None:
    problem = Problem(7, [5, 3, 0, 1, 6, 2, 4, 5, 5, 2, 3])
    querying = problem.collect(Querying(pairs="pair", k=[1, 3, 5, 10]), 4).finish(tmp_path)[direction]
    if figure == "mAP@3":
        querying = problem.collect(Querying(pairs="pair", k=[3]), 4).finish(tmp_path)[direction]
    metric = Retrieval(figure, direction=direction)
    for batch_size in (3, 11):
        metric.reset()
        problem.give(metric.update, batch_size)
        name = "P@1" if figure == "hit@1" else figure
        expected = querying.get(name, querying.get(name.replace("hit", "R")))
        assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_figures_and_directions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r'^figure is "medR"; such as "R@1"'):
        Retrieval("medR")
    with pytest.raises(ValueError, match=r'^direction is "text"; such as "text -> audio" is expected\.$'):
        Retrieval(direction="text")
    metric = Retrieval(direction="image -> audio")
    with pytest.raises(
        ValueError, match="compares image and audio of samples, but the task does not embed image; choose"
    ):
        Problem(1, [1, 1]).give(metric.update, 2)
