"""Runs that mix clips: reports show the mixtures, and resuming, chunks and processes change nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toy_research.ranks import on_ranks
from toy_research.records import events

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.reporters.page import media
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.experiment import RunResult, run
from ignite_trainer.runs.run_start import RunGallery
from tests.small_backbone import small_backbone
from tests.system.test_own_data import SMALL
from utils.datasets import MadeSounds


def protocol(folder: Path, *reporters: str, **setup: Any) -> dict[str, Any]:
    """Return a protocol that trains a small AudioCLIP on short made sounds with every augmentation."""
    sounds = MadeSounds(folder / "sounds", seconds=0.2, clips_per_class_and_fold=2, cache=folder)
    data = {"root": str(sounds.root), "fold": 1, "cache": str(folder)}
    length, only_training = {"out_len": 8000}, {"test": False}
    settings = {
        "batch_train": 8,
        "epochs": 2,
        "seed": 3,
        "log_interval": 1,
        "saved_models_path": str(folder / "results"),
    }
    return {
        "Setup": {"name": "Mixed", "skip_train_evaluation": True, **settings, **setup},
        "Model": {"class": "model.audioclip.AudioCLIP", "args": {**SMALL, "vision_layers": [1, 1, 1, 1]}},
        "Task": {"class": "utils.tasks.AudioTextContrastive", "args": {}},
        "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 1e-5, "momentum": 0.9}},
        "Parameters": [
            {"match": "audio\\..*|logit_scale_a.", "mode": "eval"},
            {"match": ".*", "train": False, "mode": "eval"},
        ],
        "Dataset": {"class": "utils.datasets.ESC50", "args": data},
        "Transforms": [
            {"class": "utils.transforms.ToTensor1D"},
            {"class": "utils.transforms.RandomRoll", **only_training},
            {"class": "utils.transforms.RandomGain", **only_training},
            {"class": "utils.transforms.RandomSpeed", **only_training},
            {"class": "utils.transforms.RandomPadding", "args": length},
            {"class": "utils.transforms.RandomCrop", "args": length},
            {"class": "utils.transforms.Mixup", "args": {"p": 0.5}, **only_training},
        ],
        "Metrics": {},
        "Reporters": [{"class": f"ignite_trainer.reporters.{name}"} for name in ("JsonLines", *reporters)],
    }


def carry_out(folder: Path, *reporters: str, **setup: Any) -> RunResult:
    with small_backbone():
        return run(draw(validate(protocol(folder, *reporters, **setup))))


def losses(result: RunResult) -> list[float]:
    """Return the loss of each step."""
    return [event["loss"] for event in events(result.folder) if event["event"] == "iteration"]


def test_the_report_shows_each_sample_as_it_is_trained_on(tmp_path: Path) -> None:
    blueprint = draw(validate(protocol(tmp_path)))
    with small_backbone():
        parts = assemble(blueprint, seed=3)
    dataset: Any = parts.training.dataset
    parts.task.prepare(parts.model, train=dataset, test=dataset)
    parts.training.set_epoch(1)
    trained = {
        int(index): (audio, row)
        for batch in parts.training
        for index, audio, row in zip(batch.indices, batch.sample.audio, batch.sample.labels, strict=True)
    }
    shown = RunGallery(parts, epochs=1).augmented(3)
    mixed = 0
    for position, (before, after) in enumerate(shown):
        audio, row = trained[position]
        heard = soundfile.read(io.BytesIO(after.exhibits[0].content))[0]
        assert np.corrcoef(heard, audio[0].numpy())[0, 1] > 0.9  # lossy
        if len(row.values) == 2:
            (own,), (other,) = row.values
            share = row.weights[0]
            assert after.record["labels"] == f"{own} {share:.2f}, {other} {1 - share:.2f}"
            mixed += 1
        assert ("labels" in after.record) == (len(row.values) == 2)
        assert "labels" not in before.record
    assert 0 < mixed < 3


def test_chunks_and_a_restart_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_SAMPLES", 1)  # drawing takes longer than training
    whole = carry_out(tmp_path / "whole", "Report")
    page = (whole.folder / "report.html").read_text()
    assert re.search(r"Augmented: .*labels [a-z ]+ 0\.\d\d, [a-z ]+ 0\.\d\d", page)
    expected = losses(whole)
    assert len(expected) == 12
    carry_out(tmp_path / "resumed", epochs=1)
    assert losses(carry_out(tmp_path / "resumed", resume="auto")) == expected
    chunked = losses(carry_out(tmp_path / "chunked", chunk=4, epochs=1))
    assert chunked == pytest.approx(expected[:6], rel=1e-3)


def losses_of_run(folder: Path) -> list[float]:
    return losses(carry_out(folder, batch_of="all"))


@pytest.mark.processes
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    expected = losses_of_run(tmp_path / "one")
    protocol(tmp_path / "two")  # makes the sounds
    assert on_ranks(2, tmp_path, losses_of_run, tmp_path / "two")[0] == pytest.approx(expected, rel=1e-3)
