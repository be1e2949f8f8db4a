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

SMALL = {
    **{"n_fft": 1024, "hop_length": 512, "win_length": 1024, "spec_height": 32, "spec_width": 32},
    **{"embed_dim": 24, "image_resolution": 32, "vision_layers": [1, 1, 1, 1], "vision_width": 8},
    **{"context_length": 16, "transformer_width": 32, "transformer_heads": 2, "transformer_layers": 1},
}


def run(command: Command, name: str, root: Path, results: Path) -> tuple[dict[str, Any], Path]:
    """Run a shipped protocol on a small model and clips of at least 0.2 s; return result and folder."""
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
