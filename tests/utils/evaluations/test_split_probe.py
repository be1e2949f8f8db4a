"""The linear probe on official splits equals scikit-learn's, and chooses C on the validation clips."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier

from utils.evaluations import split_probe
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.probe import main, probe_table
from utils.evaluations.split_probe import fit_linear, probe_splits

CLASSES = ("dog", "rain", "siren")
SPLITS = ("train", "validation", "test")


def make_table(*, multilabel: bool, clips: int = 120, noise: float = 1.5) -> FeatureTable:
    """Make clips around one centre per class, a third of them in each split."""
    random = np.random.default_rng(0)
    targets = np.eye(3, dtype=int)[np.arange(clips) // 3 % 3]
    if multilabel:
        targets = (random.random((clips, 3)) < [0.5, 0.3, 0.2]).astype(int)
    features = targets @ random.normal(size=(3, 6)) + noise * random.normal(size=(clips, 6))
    features = features * [1, 10, 0.01, 1, 1, 1] + 5
    return FeatureTable(
        features={"audio": features.astype(np.float32)},
        clips=tuple(f"clip {index}" for index in range(clips)),
        labels=tuple(tuple(CLASSES[c] for c in np.flatnonzero(row)) for row in targets),
        class_names=CLASSES,
        dataset="Points",
        splits=tuple(SPLITS[index % 3] for index in range(clips)),
    )


def by_scikit_learn(table: FeatureTable, C: float, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fit scikit-learn's model to the training clips; return the scores and targets of a split."""
    targets = np.array([[name in labels for name in CLASSES] for labels in table.labels]).astype(int)
    train, rows = (np.array([name == chosen for name in table.splits or ()]) for chosen in ("train", split))
    x = table.features["audio"].astype(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    if table.targets is None:
        model = OneVsRestClassifier(model).fit(x[train], targets[train])
    else:
        model.fit(x[train], table.targets[train])
    return model.predict_proba(x[rows]), targets[rows]


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_the_model_is_that_of_scikit_learn(multilabel: bool, C: float) -> None:
    table = make_table(multilabel=multilabel)
    row = probe_splits(table, C=[C])["audio"]
    scores, targets = by_scikit_learn(table, C, "test")
    expected = {
        "mAP": average_precision_score(targets, scores, average="macro"),
        "AUC": roc_auc_score(targets, scores, average="macro"),
    }
    if not multilabel:
        expected["accuracy"] = (scores.argmax(axis=1) == targets.argmax(axis=1)).mean()
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=2e-3), name
    assert ("accuracy" in row) != multilabel
    assert row["C"] == C
    assert 0.4 < row["mAP"] < 0.95, "the problem is neither trivial nor impossible"


@pytest.mark.parametrize("multilabel", [False, True])
def test_weights_and_intercepts_minimise_the_objective(
    multilabel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_probe, "_ROWS", 7)
    monkeypatch.setattr(split_probe, "_LARGEST_GRADIENT", 1e-9)
    random = np.random.default_rng(1)
    x = random.normal(size=(50, 4))
    y = np.eye(3)[random.integers(0, 3, 50)]
    if multilabel:
        y = (random.random((50, 3)) < 0.4).astype(float)
    found = fit_linear(torch.from_numpy(x), torch.from_numpy(y), C=0.3, multilabel=multilabel)
    weights = found.weights.requires_grad_()
    intercepts = found.intercepts.requires_grad_()
    scores = torch.from_numpy(x) @ weights + intercepts
    wanted = torch.from_numpy(y)
    if multilabel:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
    else:
        losses = torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
    (losses + weights.square().sum() / (2 * 0.3)).backward()
    assert weights.grad is not None and weights.grad.abs().max() < 1e-5
    assert intercepts.grad is not None and intercepts.grad.abs().max() < 1e-5
    assert found.converged


def test_c_is_chosen_on_the_validation_clips_and_not_on_the_test_clips() -> None:
    table = make_table(multilabel=True, clips=90, noise=3.0)
    strengths = [1e-3, 1e-2, 0.1, 1.0, 10.0]
    by_split = {
        split: [
            float(average_precision_score(*by_scikit_learn(table, C, split)[::-1], average="macro"))
            for C in strengths
        ]
        for split in ("validation", "test")
    }
    best = {split: strengths[int(np.argmax(values))] for split, values in by_split.items()}
    assert best["validation"] != best["test"], "choosing on the test clips would be noticed"
    row = probe_splits(table, C=strengths[::-1])["audio"]
    assert row["C"] == best["validation"]
    assert row["validation"] == pytest.approx(max(by_split["validation"]), abs=5e-3)
    assert row["mAP"] == pytest.approx(by_split["test"][strengths.index(row["C"])], abs=5e-3)


def test_chance_knows_only_frequencies() -> None:
    table = make_table(multilabel=True)
    targets = by_scikit_learn(table, 1.0, "test")[1]
    chance = probe_splits(table, C=[1.0])["chance"]
    assert chance == pytest.approx({"mAP": targets.mean(), "AUC": 0.5, "d'": 0.0}, abs=1e-12)
    single = probe_splits(make_table(multilabel=False), C=[1.0])["chance"]
    assert single["accuracy"] == pytest.approx(12 / 40, abs=0.05)


def test_classes_without_training_clips_and_constant_features_are_harmless() -> None:
    table = make_table(multilabel=True)
    labels = tuple(
        tuple(name for name in own if name != "siren") if split == "train" else own
        for own, split in zip(table.labels, table.splits or (), strict=True)
    )
    features = np.concatenate([table.features["audio"], np.ones((len(table), 1), np.float32)], axis=1)
    changed = FeatureTable(
        features={"audio": features},
        **{name: getattr(table, name) for name in ("clips", "class_names", "dataset", "splits")},
        labels=labels,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = probe_splits(changed, C=[0.1, 1.0])["audio"]
    assert all(math.isfinite(value) for value in row.values())


def test_one_warning_counts_fits_that_do_not_converge(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(split_probe, "_MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING):
        probe_splits(make_table(multilabel=True), C=[1.0, 2.0])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of the linear probe's fits did not converge in 2 steps; a smaller C converges sooner."
    ]


def test_unsuitable_features_are_refused() -> None:
    table = make_table(multilabel=True)

    def changed(**fields: Any) -> FeatureTable:
        names = ("features", "clips", "labels", "class_names", "dataset", "splits")
        return FeatureTable(**{**{name: getattr(table, name) for name in names}, **fields})

    with pytest.raises(ValueError, match="needs the splits train and test; Points has no test clip"):
        probe_splits(changed(splits=("train",) * 120), C=[1.0])
    no_validation = changed(
        splits=tuple("train" if name == "validation" else name for name in table.splits or ())
    )
    with pytest.raises(
        ValueError, match=r"C is \[1\.0, 2\.0\], to be chosen on validation clips, but Points has"
    ):
        probe_splits(no_validation, C=[1.0, 2.0])
    assert "validation" not in probe_splits(no_validation, C=[1.0])["audio"]
    with pytest.raises(ValueError, match="training clips of at least 2 classes"):
        probe_splits(changed(labels=(("dog",), ()) * 60), C=[1.0])
    unlabelled = tuple(
        () if split == "validation" else own
        for own, split in zip(table.labels, table.splits or (), strict=True)
    )
    with pytest.raises(ValueError, match="no validation clip of Points has a label to choose C by"):
        probe_splits(changed(labels=unlabelled), C=[1.0, 2.0])
    with pytest.raises(ValueError, match='a clip has no features of the kind "audio"'):
        probe_splits(changed(features={"audio": np.full((120, 2), np.nan, np.float32)}), C=[1.0])
    with pytest.raises(ValueError, match="without official splits there is nothing to choose on"):
        probe_table(changed(splits=None), C=[1.0, 2.0])
    with pytest.raises(ValueError, match='"val" is not a split; train, validation and test are'):
        changed(splits=("val",) * 120)
    with pytest.raises(ValueError, match="splits has 1"):
        changed(splits=("train",))


def test_the_command_probes_the_splits_of_a_stored_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path, table = tmp_path / "features.safetensors", make_table(multilabel=True)
    table.write(path)
    assert FeatureTable.read(path).splits == table.splits
    assert main([str(path), "--C", "0.1", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = probe_splits(table, C=[0.1, 1.0])
    assert [list(row) for row in printed.values()] == [list(row) for row in expected.values()]
    for kind, row in expected.items():
        assert printed[kind] == pytest.approx(row), kind
    assert main([str(path), "--C", "0.1", "1"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "Linear probe, Points: 120 clips, C = 0.1, 1"
    assert ["mAP", "AUC", "d'", "C", "validation"] in [line.split() for line in lines]
    assert ["audio", *(f"{value:.4f}" for value in expected["audio"].values())] in [
        line.split() for line in lines
    ]
