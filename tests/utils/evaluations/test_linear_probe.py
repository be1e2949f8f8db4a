"""The linear probe in a run; its baseline equals a spectrogram made with scipy."""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import pytest
import torch
from scipy.signal import get_window
from toy_research.embedding import Embedding, Points

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.task import StepOutput
from ignite_trainer.runs.experiment import RunResult
from ignite_trainer.support.errors import ProtocolError
from utils.evaluations import LinearProbe
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.linear_probe import log_mel_statistics
from utils.evaluations.probe import probe

Measure = Callable[..., RunResult]


def features_of(points: Points) -> FeatureTable:
    vectors = points.vectors / np.linalg.norm(points.vectors, axis=1, keepdims=True)
    audio = [torch.as_tensor(points[index].audio) for index in range(len(points))]
    return FeatureTable(
        features={"audio": vectors, "log-mel statistics": log_mel_statistics(audio, points.sample_rate)},
        clips=tuple(f"point {index}" for index in range(len(points))),
        labels=tuple(tuple(points.labels_of(index)) for index in range(len(points))),
        class_names=points.class_names,
        dataset="Points",
        folds=np.array([points.fold_of(index) for index in range(len(points))]),
    )


def test_a_run_reports_accuracies_of_features_baseline_and_chance(measure: Measure) -> None:
    table = measure("LinearProbe", {"baseline": "log-mel", "C": 0.1}).record.evaluations["measured"]
    assert list(table) == ["audio", "log-mel statistics", "chance"]
    assert list(table["audio"]) == ["fold 1", "fold 2", "fold 3", "mean", "sd"]
    expected = probe(features_of(Points()), C=0.1)
    for row, values in expected.items():
        assert table[row] == pytest.approx(values), row
    assert table["chance"]["mean"] is not None
    assert table["audio"]["mean"] is not None
    assert table["audio"]["mean"] > table["chance"]["mean"]


def test_the_baseline_is_optional(measure: Measure) -> None:
    assert list(measure("LinearProbe").record.evaluations["measured"]) == ["audio", "chance"]


def test_holding_out_a_fold_is_refused_before_the_run(measure: Measure) -> None:
    with pytest.raises(ProtocolError) as caught:
        measure("LinearProbe", data={"fold": 2})
    assert str(caught.value) == (
        "Evaluations.measured: the linear probe holds out each fold in turn, so it needs features of the "
        "whole data set; Dataset.args.fold selects 2 only. Set it to null."
    )


def test_a_data_set_without_folds_rate_or_labels_is_refused() -> None:
    class Plain:
        class_names: tuple[str, ...] = ("dog", "rain")

    class Folded(Plain):
        folds = (1, 2)

    class Unlabelled(Folded):
        class_names = ()

    model = torch.nn.Identity()
    with pytest.raises(ValueError, match="needs at least two folds; the data set has 0"):
        LinearProbe().prepare(model, Embedding(), test=Plain())
    with pytest.raises(ValueError, match='the baseline "log-mel" needs the sample_rate of the data set'):
        LinearProbe(baseline="log-mel").prepare(model, Embedding(), test=Folded())
    with pytest.raises(ValueError, match="Unlabelled has no class_names; a probe is fitted to labels"):
        LinearProbe().prepare(model, Embedding(), test=Unlabelled())


# The baseline


def clip(seconds: float, *, channels: int = 2, rate: int = 44100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3000 * torch.randn(channels, int(seconds * rate), generator=generator)


def test_the_baseline_consists_of_mean_and_deviation_of_mel_bands_in_decibels() -> None:
    audio = clip(0.3)
    mono = np.pad(audio.double().numpy().mean(axis=0) / 32768, 1024)
    frames = np.stack([mono[start : start + 2048] for start in range(0, len(mono) - 2047, 512)])
    power = np.abs(np.fft.rfft(frames * get_window("hann", 2048), axis=1)) ** 2
    mel = librosa.filters.mel(sr=44100, n_fft=2048, n_mels=64).astype(np.float64)
    decibels = 10 * np.log10(power @ mel.T)
    expected = np.concatenate([decibels.mean(axis=0), decibels.std(axis=0)])
    found = log_mel_statistics([audio], 44100)
    assert found.dtype == np.float32
    assert found.shape == (1, 128)
    assert np.allclose(found[0], expected, atol=1e-3)


def test_the_baseline_ignores_padding_and_accepts_short_clips() -> None:
    clips = [clip(0.2), clip(0.1), clip(0.001), torch.zeros(2, 5000)]
    alone = np.concatenate([log_mel_statistics([one], 44100) for one in clips])
    assert np.isfinite(alone).all()
    points = Points(samples=4)
    measured = LinearProbe(baseline="log-mel")
    measured.prepare(torch.nn.Identity(), Embedding(), test=points)
    points.sample_rate = 44100
    output = StepOutput(torch.zeros(4, 4), torch.zeros(4), features={"audio": torch.eye(4)})
    batch = points[0]._replace(audio=PaddedBatch.stack(clips), labels=[["dog"]] * 4)
    measured.start(torch.nn.Identity())
    measured.step(torch.nn.Identity(), torch.arange(4), batch, output)
    assert np.array_equal(measured.table().features["log-mel statistics"], alone)
