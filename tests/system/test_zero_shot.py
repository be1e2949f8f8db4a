"""Zero-shot classification by the command equals a formula, on real clips."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from model.audioclip import AudioCLIP
from tests.system.conftest import QUIET, Command

WINDOW = 220500

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def model(deterministic_weights: Callable[[nn.Module], None]) -> AudioCLIP:
    model = AudioCLIP(pretrained=False, multilabel=False)
    deterministic_weights(model)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(model: AudioCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a plain state dict, as the released files are."""
    path = tmp_path_factory.mktemp("weights") / "deterministic.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def ten_clips(real_data: Callable[[str], Path], tmp_path: Path) -> Path:
    """Make a data set of ten real clips in five classes and five folds."""
    source, root = real_data("esc18"), tmp_path / "ten"
    with (source / "meta/esc50.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    targets = sorted({row["target"] for row in rows})[:5]
    chosen = [row for row in rows if row["target"] in targets]
    chosen = [
        next(r for r in chosen if (r["target"], r["fold"]) == (t, str(f)))
        for t, folds in zip(targets, [(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)], strict=True)
        for f in folds
    ]
    (root / "meta").mkdir(parents=True)
    (root / "audio").symlink_to(source / "audio")
    with (root / "meta/esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)
    return root


def predictions(
    command: Command, root: Path, checkpoint: Path, results: Path, *flags: str
) -> list[dict[str, str]]:
    """Run the shipped protocol and read its predictions."""
    words = ["--Dataset.args.root", root, "--Model.args.pretrained", checkpoint, "-M", results]
    assert command("audioclip-esc50-zeroshot", *words, *flags, *QUIET).status == 0
    with next(results.rglob("predictions.csv")).open(newline="") as file:
        return list(csv.DictReader(file))


def scores(rows: list[dict[str, str]]) -> NDArray[np.float64]:
    return np.array([[float(row[key]) for key in row if key.startswith("score: ")] for row in rows])


def by_hand(model: AudioCLIP, root: Path, rows: list[dict[str, str]]) -> NDArray[np.float64]:
    """Compute softmax(20 cosine) of clips without our loaders; 20 is the scale of these weights."""
    assert float(model.logit_scale_at.detach().exp()) == pytest.approx(20.0)
    classes = [key.removeprefix("score: ") for key in rows[0] if key.startswith("score: ")]
    with torch.no_grad():
        text = F.normalize(model.encode_text(classes), dim=-1)
        found = []
        for row in rows:
            samples, rate = soundfile.read(root / row["clip"], dtype="float32")
            assert rate == 44100
            start = (len(samples) - WINDOW) // 2  # Vorbis encoded the 220500 samples as 220544
            assert 0 <= start <= WINDOW // 200
            audio = torch.from_numpy(samples[start : start + WINDOW])[None, None] * 32768.0
            cosine = F.normalize(model.encode_audio(audio), dim=-1) @ text.T
            found.append((20.0 * cosine).softmax(dim=-1)[0].double().numpy())
    return np.stack(found)


def test_scores_do_not_depend_on_batches_workers_and_cache(
    model: AudioCLIP, checkpoint: Path, ten_clips: Path, tmp_path: Path, command: Command
) -> None:
    first = predictions(command, ten_clips, checkpoint, tmp_path / "first", "-b", "4", "-W", "0")
    assert len(first) == 10
    assert np.abs(scores(first) - by_hand(model, ten_clips, first)).max() < 1e-4
    cached = predictions(command, ten_clips, checkpoint, tmp_path / "cached", "-b", "3", "-W", "2")
    assert [row["clip"] for row in cached] == [row["clip"] for row in first]
    assert np.abs(scores(cached) - scores(first)).max() < 1e-5
    record = json.loads(next((tmp_path / "first").rglob("result.json")).read_text())
    assert (record["setting"], record["dataset"]) == ("zero-shot", "part of ESC-50 (10 clips, 5 classes)")
    assert [file["name"] for file in record["weights"]] == ["deterministic.pt"]
    assert set(record["evaluations"]["querying"]) == {"audio -> text", "text -> audio"}


@pytest.mark.slow
def test_every_real_clip_has_the_same_scores_alone_and_in_a_batch(
    model: AudioCLIP,
    checkpoint: Path,
    real_data: Callable[[str], Path],
    tmp_path: Path,
    command: Command,
) -> None:
    root = real_data("esc18")
    first = predictions(command, root, checkpoint, tmp_path / "first", "-b", "16", "-W", "0")
    assert len(first) == 720
    ten = first[::72]
    expected = by_hand(model, root, ten)
    assert np.abs(scores(ten) - expected).max() < 1e-4
    cached = predictions(command, root, checkpoint, tmp_path / "cached", "-b", "11", "-W", "2")
    assert np.abs(scores(cached) - scores(first)).max() < 1e-5
