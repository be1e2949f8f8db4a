"""The packages hearvalidator and heareval evaluate a small AudioCLIP on tasks made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from model.audioclip import AudioCLIP
from tests.utils.benchmarks.conftest import HEAR, run
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


class Evaluated(NamedTuple):
    """What the packages print, and the folders of heareval's tasks and of its results."""

    output: str
    tasks: Path
    results: Path


@pytest.fixture(scope="module")
def evaluated(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("hear")
    for name, kind in {"tones": "scene", "events": "event"}.items():
        make_hear_task(folder / "tasks" / name, kind)
    results = Path("embeddings/utils.benchmarks.hear")
    output = run(
        folder,
        ("hearvalidator.validate", "utils.benchmarks.hear", "-m", saved_model, "-d", "cpu"),
        ("heareval.embeddings.runner", "utils.benchmarks.hear", "--model", saved_model),
        ("heareval.predictions.runner", results / "tones", results / "events", "--grid-points", "1"),
    )
    return Evaluated(output, folder / "tasks", folder / results)


def test_the_validator_of_hear_accepts_the_model(evaluated: Evaluated) -> None:
    assert "Max interval between timestamps is 50.0ms" in evaluated.output
    assert "UserWarning: Your timestamps" not in evaluated.output
    assert "Looks good!" in evaluated.output


def test_heareval_evaluates_the_embeddings_of_the_files(evaluated: Evaluated, saved_model: Path) -> None:
    files = sorted((evaluated.tasks / "tones/44100/fold00").glob("*.wav"))
    written = [evaluated.results / f"tones/fold00/{file.name}.embedding.npy" for file in files]
    expected = AudioCLIP.from_pretrained(saved_model).embed_audio(files)
    np.testing.assert_allclose(np.stack([*map(np.load, written)]), expected.numpy(), rtol=0, atol=1e-6)
    event = evaluated.results / "events/fold00/0.wav"
    assert np.load(f"{event}.embedding.npy").shape == (10, 16)
    labels = json.loads(Path(f"{event}.target-labels.json").read_text())
    assert labels == [["high"] if 100 <= 25 + 50 * frame <= 400 else [] for frame in range(10)]


def test_heareval_scores_clips_and_events(evaluated: Evaluated) -> None:
    clips, events = (
        json.loads((evaluated.results / name / "test.predicted-scores.json").read_text())
        for name in ("tones", "events")
    )
    folds = [clips[f"fold{fold:02}"]["test_top1_acc"] for fold in range(FOLDS)]
    assert clips["aggregated_scores"]["test_top1_acc_mean"] == pytest.approx(np.mean(folds))
    assert np.mean(folds) > 0.75
    assert "test_event_onset_200ms_fms_mean" in events["aggregated_scores"]
