"""The command trains on AudioSet, with several labels per sample and some sounds missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from toy_research.records import events

from ignite_trainer.protocol.reading import read_protocol
from tests.miniatures import AUDIOSET_NAMES, write_audioset
from tests.system.conftest import ROOT, Command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder for a miniature of AudioSet."""
    return tmp_path / "AudioSet"


def test_audioset_trains_and_reports_missing_files(
    root: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    write_audioset(root, segments=8)
    protocol: dict[str, Any] = {
        "Setup": {
            "name": "AudioSet",
            "batch_train": 6,
            "epochs": 1,
            "seed": 1,
            "sampling": "balanced",
            "samples_per_epoch": 18,
            "skip_train_evaluation": True,
            "saved_models_path": "results",
        },
        "Model": {"class": "model.esresnet.ESResNeXt", "args": {"num_classes": 3, "pretrained": False}},
        "Task": {"class": "utils.tasks.Classification", "args": {"multilabel": True}},
        "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 1e-3}},
        "Dataset": {
            "class": "utils.datasets.AudioSet",
            "args": {"root": str(root), "train_on": "both", "modalities": ["audio"]},
        },
        "Transforms": [
            {"class": "utils.transforms.ToTensor1D"},
            {"class": "utils.transforms.RandomPadding", "args": {"out_len": 19845}},
        ],
        "Metrics": {
            "Performance": {"lines": [{"line_label": "mAP", "class": "utils.metrics.MeanAveragePrecision"}]}
        },
        "Reporters": [{"class": "ignite_trainer.reporters.JsonLines"}],
    }
    protocol["Model"]["args"] |= {"n_fft": 1024, "win_length": 1024, "spec_height": 32, "spec_width": 32}
    assert command(protocol).status == 0
    messages = [record.getMessage() for record in caplog.records if "segments listed" in record.getMessage()]
    assert messages == [
        f"{tables}: {listed} segments listed, {there} with a sound, 0 with images, 0 with both; "
        f"{there} (75.0%) are used."
        for tables, listed, there in (
            ("balanced_train_segments.csv and unbalanced_train_segments.csv", 16, 12),
            ("eval_segments.csv", 8, 6),
        )
    ]
    [folder] = (root.parent / "results").glob("*/*")
    assert [event["iteration"] for event in events(folder) if event["event"] == "iteration"] == [3]
    measured = [event["metrics"]["mAP"] for event in events(folder) if event["event"] == "evaluation"]
    assert measured and all(0 < value <= 1 for value in measured)


AUDIO = {"n_fft": 1024, "hop_length": 512, "win_length": 1024, "spec_height": 32, "spec_width": 32}
TOWERS = {
    **{"embed_dim": 24, "image_resolution": 32, "vision_layers": [1, 1, 1, 1], "vision_width": 8},
    **{"context_length": 16, "transformer_width": 32, "transformer_heads": 2, "transformer_layers": 1},
}


def test_each_of_the_three_stages_starts_from_the_previous_one() -> None:
    audio, partial, full = (
        read_protocol(ROOT / f"protocols/audioset-{name}.json") for name in ("1-audio", "2-partial", "3-full")
    )
    assert partial["Model"]["args"]["pretrained"]["audio"] == f"results/{audio['Setup']['name']}"
    assert full["Model"]["args"]["pretrained"] == f"results/{partial['Setup']['name']}"
    assert {stage["Setup"]["saved_models_path"] for stage in (audio, partial, full)} == {"results"}


def test_the_names_of_the_classes_are_scored_on_the_evaluation_segments_alone(
    root: Path, command: Command
) -> None:
    """The shipped protocol needs no training segment, and reports the mAP of its scores."""
    write_audioset(root, segments=8)
    for number in range(16):  # sounds of the training tables
        (root / f"audio/Y{number:011d}.wav").unlink(missing_ok=True)
    results = root.parent / "results"
    ours = {
        "extends": str(ROOT / "protocols/audioclip-audioset-zeroshot.json"),
        "Setup": {"batch_train": 4, "workers_test": 0, "saved_models_path": str(results)},
        "Model": {"args": {**AUDIO, **TOWERS, "pretrained": False}},
        "Dataset": {"args": {"root": str(root)}},
        "Transforms": [
            {"class": "utils.transforms.ToTensor1D"},
            {"class": "utils.transforms.RandomPadding", "args": {"out_len": 19845, "train": False}},
        ],
        "Reporters": [],
    }
    assert command(ours).status == 0
    [path] = (results / "Zero-shot").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["dataset"] == "part of AudioSet (6 of 20,371 segments)"
    assert (result["setting"], result["metric"], result["nothing_held_out"]) == ("class names", "mAP", True)
    with (path.parent / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    precisions = []
    for name in AUDIOSET_NAMES:
        ranked = sorted(predictions, key=lambda row: -float(row[f"score: {name}"]))
        hits = [name in row["target"].split("|") for row in ranked]
        found = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
        precisions.append(sum(found) / len(found))
    assert result["last"]["mAP"] == pytest.approx(sum(precisions) / len(precisions), abs=1e-6)
