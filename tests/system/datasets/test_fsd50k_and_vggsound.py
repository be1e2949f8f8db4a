"""The shipped protocols of FSD50K and VGGSound on miniatures: scores, metrics and probes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.miniatures import FSD50K_NAMES, VGGSOUND_NAMES, write_fsd50k, write_vggsound
from tests.system.conftest import ROOT, Command
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.split_probe import probe_splits

SMALL = {
    **{"n_fft": 1024, "hop_length": 512, "win_length": 1024, "spec_height": 32, "spec_width": 32},
    **{"embed_dim": 24, "image_resolution": 32, "vision_layers": [1, 1, 1, 1], "vision_width": 8},
    **{"context_length": 16, "transformer_width": 32, "transformer_heads": 2, "transformer_layers": 1},
}


def run(command: Command, name: str, root: Path, results: Path) -> tuple[dict[str, Any], Path]:
    """Check and run a shipped protocol on a small model and clips of 0.2 s; return result and folder."""
    ours = {
        "extends": str(ROOT / f"protocols/audioclip-{name}.json"),
        "Setup": {"batch_train": 4, "workers_test": 0, "seed": 1, "saved_models_path": str(results)},
        "Model": {"args": {**SMALL, "pretrained": False}},
        "Dataset": {"args": {"root": str(root)}},
        "Transforms": [
            {"class": "utils.transforms.ToTensor1D"},
            {"class": "utils.transforms.RandomPadding", "args": {"out_len": 8820, "train": False}},
        ],
        "Reporters": [],
    }
    checked = command(ours, "--check")
    assert checked.status == 0, checked.out
    assert command(ours).status == 0
    [path] = results.glob("*/*/result.json")
    return json.loads(path.read_text()), path.parent


def read_scores(folder: Path, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Return scores and 0/1 targets from `predictions.csv`."""
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([[float(row[f"score: {name}"]) for name in names] for row in rows])
    targets = np.array([[name in row["target"].split("|") for name in names] for row in rows])
    return scores, targets


def test_fsd50k_is_scored_by_class_names_on_the_eval_clips_alone(command: Command, tmp_path: Path) -> None:
    root = write_fsd50k(tmp_path / "FSD50K", eval_=10)
    for file in (root / "FSD50K.dev_audio").iterdir():
        file.unlink()
    result, folder = run(command, "fsd50k-zeroshot", root, tmp_path / "results")
    assert result["dataset"] == "part of FSD50K (10 of 10,231 eval clips)"
    assert (result["setting"], result["metric"], result["multilabel"]) == ("zero-shot", "mAP", True)
    scores, targets = read_scores(folder, FSD50K_NAMES)
    assert targets.sum() == 14
    area = roc_auc_score(targets, scores, average="macro")
    assert result["last"] == pytest.approx(
        {
            "mAP": average_precision_score(targets, scores, average="macro"),
            "AUC": area,
            "d'": math.sqrt(2) * norm.ppf(area),
        },
        abs=1e-5,
    )
    assert set(result["evaluations"]["querying"]) == {"audio -> text", "text -> audio"}
    table = (tmp_path / "results/table.md").read_text()
    assert "part of FSD50K" in table and "mAP" in table


def test_vggsound_is_scored_by_class_names_on_the_test_clips_alone(command: Command, tmp_path: Path) -> None:
    root = write_vggsound(tmp_path / "VGGSound", test=10)
    for number in range(6):
        (root / f"audio/{number:011d}_000030.wav").unlink()
    result, folder = run(command, "vggsound-zeroshot", root, tmp_path / "results")
    assert result["dataset"] == "part of VGGSound (10 of 15,496 test clips)"
    assert (result["setting"], result["metric"], result["multilabel"]) == ("zero-shot", "Val. Acc.", False)
    scores, targets = read_scores(folder, VGGSOUND_NAMES)
    assert targets.sum(axis=0).tolist() == [2] * 5
    area = roc_auc_score(targets, scores, average="macro")
    expected = {
        "Val. Acc.": (scores.argmax(axis=1) == targets.argmax(axis=1)).mean(),
        "mAP": average_precision_score(targets, scores, average="macro"),
        "AUC": area,
        "d'": math.sqrt(2) * norm.ppf(area),
    }
    assert {name: result["last"][name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_a_probe_on_fsd50k_trains_on_train_chooses_on_val_and_tests_on_eval(
    command: Command, tmp_path: Path
) -> None:
    root = write_fsd50k(tmp_path / "FSD50K", train=20, val=10, eval_=10)
    result, folder = run(command, "fsd50k-probe", root, tmp_path / "results")
    assert result["dataset"] == "part of FSD50K (40 of 51,197 dev and eval clips)"
    assert result["evaluations"]["features"] == {"audio": {"items": 40, "dimensions": 24}}
    stored = FeatureTable.read(folder / "features.safetensors")
    assert stored.splits == ("train",) * 20 + ("validation",) * 10 + ("test",) * 10
    assert stored.labels[:2] == (("bass guitar", "guitar"), ("chirp and tweet",))
    probed = result["evaluations"]["probe"]
    assert list(probed) == ["audio", "chance"]
    assert list(probed["audio"]) == ["mAP", "AUC", "d'", "C", "validation"]
    expected = probe_splits(stored, C=[1e-4, 1e-3, 1e-2, 0.1, 1.0])["audio"]
    for name in ("mAP", "AUC", "C", "validation"):
        assert probed["audio"][name] == pytest.approx(expected[name], rel=1e-6), name
    assert probed["audio"]["mAP"] > probed["chance"]["mAP"]


def test_a_probe_on_vggsound_chooses_on_a_share_of_the_training_videos(
    command: Command, tmp_path: Path
) -> None:
    root = write_vggsound(tmp_path / "VGGSound", train=25, test=10)
    result, folder = run(command, "vggsound-probe", root, tmp_path / "results")
    stored = FeatureTable.read(folder / "features.safetensors")
    assert stored.splits is not None
    assert [stored.splits.count(name) for name in ("train", "validation", "test")] == [20, 5, 10]
    probed = result["evaluations"]["probe"]
    assert list(probed["audio"]) == ["accuracy", "mAP", "AUC", "d'", "C", "validation"]
    assert probed["audio"]["accuracy"] > probed["chance"]["accuracy"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("fsd50k", {"whole": False}, "the data set has test only. Set Dataset.args.whole to true."),
        (
            "vggsound",
            {"validation_share": None},
            "a validation split, which the data set lacks; give one value",
        ),
    ],
)
def test_a_probe_without_the_parts_that_it_needs_is_refused(
    command: Command, tmp_path: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    root = (write_fsd50k if name == "fsd50k" else write_vggsound)(tmp_path / name)
    ours = {
        "extends": str(ROOT / f"protocols/audioclip-{name}-probe.json"),
        "Setup": {"batch_train": 4, "workers_test": 0, "saved_models_path": str(tmp_path / "results")},
        "Model": {"args": {**SMALL, "pretrained": False}},
        "Dataset": {"args": {"root": str(root), **changes}},
        "Reporters": [],
    }
    refused = command(ours)
    assert refused.status == 2
    assert "Evaluations.probe: " in refused.err and said in refused.err
