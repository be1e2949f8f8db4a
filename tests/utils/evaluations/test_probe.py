"""The linear probe on tables with known results."""

from __future__ import annotations

import json
import logging
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from utils.evaluations import probe as probing
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.probe import main, probe

CLASSES = ("dog", "rain", "siren")


def make_table(
    features: dict[str, NDArray[np.float32]], targets: list[int], folds: list[int]
) -> FeatureTable:
    return FeatureTable(
        features=features,
        clips=tuple(f"clip {index}" for index in range(len(targets))),
        labels=tuple((CLASSES[target],) for target in targets),
        class_names=CLASSES,
        dataset="Points",
        folds=np.array(folds),
    )


def noisy_table(samples: int = 60) -> FeatureTable:
    random = np.random.default_rng(0)
    targets = [index % 3 for index in range(samples)]
    features = random.normal(size=(3, 5))[targets] + 1.2 * random.normal(size=(samples, 5))
    features = features * [1, 10, 0.01, 1, 1] + 5
    folds = [index // 3 % 4 + 1 for index in range(samples)]
    return make_table({"audio": features.astype(np.float32)}, targets, folds)


def accuracy_by_hand(x: NDArray[Any], y: NDArray[Any], test: NDArray[np.bool_], *, C: float) -> float:
    """Fit multinomial logistic regression by minimising the formula of its penalised likelihood."""
    mean, sd = x[~test].mean(axis=0), x[~test].std(axis=0)
    x = (x - mean) / sd

    def loss(parameters: NDArray[Any]) -> float:
        weights = parameters.reshape(3, -1)
        scores = x[~test] @ weights[:, :-1].T + weights[:, -1]
        likelihood = log_softmax(scores, axis=1)[np.arange((~test).sum()), y[~test]].sum()
        return float(-C * likelihood + 0.5 * (weights[:, :-1] ** 2).sum())

    weights = minimize(loss, np.zeros(3 * (x.shape[1] + 1))).x.reshape(3, -1)
    predicted = (x[test] @ weights[:, :-1].T + weights[:, -1]).argmax(axis=1)
    return float((predicted == y[test]).mean())


@pytest.mark.parametrize("C", [1.0, 0.01])
def test_each_fold_is_tested_with_a_model_fitted_to_the_others(C: float) -> None:
    table = noisy_table()
    row = probe(table, C=C)["audio"]
    assert table.targets is not None
    assert table.folds is not None
    x = table.features["audio"].astype(np.float64)
    expected = [accuracy_by_hand(x, table.targets, table.folds == fold, C=C) for fold in (1, 2, 3, 4)]
    assert [row[f"fold {fold}"] for fold in (1, 2, 3, 4)] == pytest.approx(expected)
    assert 0.4 < row["mean"] < 1.0, "the problem is neither trivial nor impossible"
    assert row["mean"] == pytest.approx(statistics.mean(expected))
    assert row["sd"] == pytest.approx(statistics.stdev(expected))
    assert list(row) == ["fold 1", "fold 2", "fold 3", "fold 4", "mean", "sd"]


def test_each_kind_of_features_has_a_row_and_the_last_row_is_chance() -> None:
    targets = [0, 1, 2] * 4
    telling = np.eye(3, dtype=np.float32)[targets]
    rows = probe(make_table({"audio": telling, "image": np.zeros_like(telling)}, targets, [1] * 6 + [3] * 6))
    assert list(rows) == ["audio", "image", "chance"]
    assert rows["audio"] == {"fold 1": 1.0, "fold 3": 1.0, "mean": 1.0, "sd": 0.0}
    assert rows["image"]["mean"] == rows["chance"]["mean"] == pytest.approx(1 / 3)


def test_chance_is_the_accuracy_of_the_most_frequent_class() -> None:
    targets = [*(0, 0, 0, 1), *(1, 1, 1, 2)]
    features = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    chance = probe(make_table({"audio": features}, targets, [1] * 4 + [2] * 4))["chance"]
    assert chance["fold 1"] == 1 / 4  # trained on fold 2, where class 1 is the most frequent
    assert chance["fold 2"] == 0.0
    assert chance["sd"] == pytest.approx(statistics.stdev([1 / 4, 0.0]))


def test_the_probe_is_deterministic() -> None:
    assert probe(noisy_table()) == probe(noisy_table())


def test_one_warning_counts_fits_that_do_not_converge(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(probing, "_MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING):
        probe(noisy_table(), C=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "4 of the linear probe's fits did not converge in 2 steps; a smaller C than 1 converges sooner."
    ]


def test_unsuitable_features_are_refused() -> None:
    features = {"audio": np.zeros((4, 2), np.float32)}
    with pytest.raises(ValueError, match="the probe needs at least two folds; Points has one"):
        probe(make_table(features, [0, 1, 0, 1], [1, 1, 1, 1]))
    with pytest.raises(ValueError, match="needs samples of at least 2 classes"):
        probe(make_table(features, [0, 1, 0, 0], [1, 1, 2, 2]))
    with pytest.raises(ValueError, match="C is 0; a positive number is expected"):
        probe(noisy_table(), C=0)
    several = FeatureTable(
        features=features,
        clips=tuple("abcd"),
        labels=((), ("dog",), ("dog", "rain"), ("rain",)),
        class_names=CLASSES,
        dataset="Points",
    )
    with pytest.raises(ValueError, match="exactly one label for each clip; Points has more or fewer"):
        probe(several)


# The command


def test_the_command_prints_the_table_of_a_stored_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    path = tmp_path / "features.safetensors"
    noisy_table().write(path)
    expected = probe(noisy_table(), C=0.5)
    assert main([str(path), "--C", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert main([str(path), "--C", "0.5"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "Accuracy of a linear probe, Points: 60 clips, C = 0.5"
    row = ["audio", *(f"{value:.4f}" for value in expected["audio"].values())]
    assert row in [line.split() for line in lines]


def test_the_command_reports_errors_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "features.safetensors"
    noisy_table().write(path)
    assert main([str(path), "--C", "-1"]) == 1
    assert capsys.readouterr().err == "error: C is -1.0; a positive number is expected.\n"
    path.write_bytes(path.read_bytes()[:-8])
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path} is not a table of features, or is incomplete: ")
