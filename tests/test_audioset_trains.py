"""AudioSet trained on by the command: several labels a sample, some sounds missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ignite_trainer import cli

DEFAULTS = Path(__file__).parent.parent / "protocols/defaults.json"
CLASSES = ("Speech", "Dog", "Child speech, kid speaking")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight segments of each table, every fourth of which has no sound."""
    monkeypatch.setenv("AUDIOCLIP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "AudioSet"
    (folder / "audio").mkdir(parents=True)
    number = 0
    for table in ("balanced_train", "unbalanced_train", "eval"):
        lines = ["# created", "# num_segs=8", "# YTID, start_seconds, end_seconds, positive_labels"]
        for i in range(8):
            mids = ",".join(f"/m/{mid}" for mid in sorted({i % 3, (i // 2) % 3}))
            lines.append(f'{number:011d}, 30.000, 40.000, "{mids}"')
            samples = np.random.default_rng(number).normal(0, 0.02 + 0.1 * (i % 3), 4410)
            if i % 4:
                soundfile.write(folder / f"audio/Y{number:011d}.wav", samples, 44100)
            number += 1
        (folder / f"{table}_segments.csv").write_text("\n".join(lines) + "\n")
    with (folder / "class_labels_indices.csv").open("w", newline="") as file:
        rows = [(number, f"/m/{number}", name) for number, name in enumerate(CLASSES)]
        csv.writer(file).writerows([("index", "mid", "display_name"), *rows])
    return folder


def test_it_is_trained_on_and_what_is_missing_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    protocol: dict[str, Any] = {
        "Setup": {
            "name": "AudioSet",
            "batch_train": 6,
            "epochs": 1,
            "seed": 1,
            "skip_train_evaluation": True,
            "saved_models_path": str(root.parent / "results"),
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
    path = root.parent / "protocol.json"
    path.write_text(json.dumps(protocol))
    assert cli.main(["-c", str(path)], defaults=DEFAULTS) == 0
    said = [record.getMessage() for record in caplog.records if "segments listed" in record.getMessage()]
    assert said == [
        f"{tables}: {listed} segments listed, {there} with a sound, 0 with pictures, 0 with both; "
        f"{there} (75.0%) are used."
        for tables, listed, there in (
            ("balanced_train_segments.csv and unbalanced_train_segments.csv", 16, 12),
            ("eval_segments.csv", 8, 6),
        )
    ]
    [file] = (root.parent / "results").rglob("metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    measured = [line["metrics"]["mAP"] for line in lines if line["event"] == "evaluation"]
    assert measured and all(0 < value <= 1 for value in measured)
