"""The packages hearvalidator and heareval evaluate a small AudioCLIP on tasks made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from model.audioclip import AudioCLIP
from tests.utils.benchmarks.conftest import HEAR, Run
from tests.utils.benchmarks.tones import FOLDS, tones

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not HEAR.is_dir(), reason=f"needs HEAR's packages in {HEAR}: make benchmarks"),
]

LABELS = ("high", "low")


def make_hear_task(folder: Path, kind: str) -> None:
    """Write a task in HEAR's layout, whose clips have one label ("scene"), or events in time ("event")."""
    folds = [f"fold{fold:02}" for fold in range(FOLDS)]
    for number, fold in enumerate(folds):
        (folder / "44100" / fold).mkdir(parents=True)
        labels: dict[str, list[Any]] = {}
        for clip, (label, samples) in enumerate(tones(number)):
            name = f"{clip}.wav"
            soundfile.write(folder / "44100" / fold / name, samples, 44100, subtype="FLOAT")
            event = {"label": LABELS[label], "start": 100.0, "end": 400.0}
            labels[name] = [LABELS[label]] if kind == "scene" else [event]
        (folder / f"{fold}.json").write_text(json.dumps(labels))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,high\n1,low\n")
    metadata = {
        "task_name": folder.name,
        "embedding_type": kind,
        "prediction_type": "multiclass" if kind == "scene" else "multilabel",
        "split_mode": "presplit_kfold",
        "splits": folds,
        "sample_duration": 0.5,
        "evaluation": ["top1_acc"] if kind == "scene" else ["event_onset_200ms_fms"],
        # as for HEAR's MAESTRO
        "use_scoring_for_early_stopping": kind == "scene",
        "evaluation_params": {
            "task_specific_param_grid": {
                "max_epochs": [20],
                "check_val_every_n_epoch": [1],
                "hidden_layers": [1],
                "lr": [0.01],
            },
            "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
        },
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))


def test_the_validator_of_hear_accepts_the_model(run: Run, saved_model: Path) -> None:
    output = run("hearvalidator.validate", "utils.benchmarks.hear", "-m", saved_model, "-d", "cpu")
    assert "Max interval between timestamps is 50.0ms" in output
    assert "UserWarning: Your timestamps" not in output
    assert "Looks good!" in output


def test_heareval_evaluates_clips_and_events(run: Run, saved_model: Path, tmp_path: Path) -> None:
    for name, kind in {"tones": "scene", "events": "event"}.items():
        make_hear_task(tmp_path / "tasks" / name, kind)
    run("heareval.embeddings.runner", "utils.benchmarks.hear", "--model", saved_model)
    results = tmp_path / "embeddings/utils.benchmarks.hear"
    run("heareval.predictions.runner", results / "tones", results / "events", "--grid-points", "1")

    # The embeddings that heareval evaluates are those of the files.
    files = sorted((tmp_path / "tasks/tones/44100/fold00").glob("*.wav"))
    model = AudioCLIP.from_pretrained(saved_model)
    found = np.stack([np.load(results / f"tones/fold00/{file.name}.embedding.npy") for file in files])
    np.testing.assert_allclose(found, model.embed_audio(files).numpy(), rtol=0, atol=1e-6)
    assert np.load(results / "events/fold00/0.wav.embedding.npy").shape == (10, 16)
    labels = json.loads((results / "events/fold00/0.wav.target-labels.json").read_text())
    assert labels == [["high"] if 100 <= 25 + 50 * frame <= 400 else [] for frame in range(10)]

    scores = {
        name: json.loads((results / name / "test.predicted-scores.json").read_text())
        for name in ("tones", "events")
    }
    folds = [scores["tones"][f"fold{fold:02}"]["test_top1_acc"] for fold in range(FOLDS)]
    assert scores["tones"]["aggregated_scores"]["test_top1_acc_mean"] == pytest.approx(np.mean(folds))
    assert np.mean(folds) > 0.75
    assert "test_event_onset_200ms_fms_mean" in scores["events"]["aggregated_scores"]
