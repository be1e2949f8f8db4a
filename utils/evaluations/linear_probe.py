"""Linear probe of the task's features in a run, optionally alongside a baseline."""

# ruff: noqa: PLC0415 (librosa takes seconds to import)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.evaluation import FigureTable
from ignite_trainer.api.self_description import folds, held_out_folds
from ignite_trainer.api.task import StepOutput, Task
from utils.datasets.sample import TEST, TRAIN, VALIDATION
from utils.evaluations.features import CollectingEvaluation
from utils.evaluations.probe import penalties, probe_table

BASELINE_ROW = "log-mel statistics"
BANDS = 64

_N_FFT = 2048
_HOP_SAMPLES = 512
_FULL_SCALE = 32768.0


class LinearProbe(CollectingEvaluation):
    """Train a linear classifier on frozen features, holding out each fold in turn, or on official splits.

    The task computes the features in a pass over the whole data set, which requires `Dataset.args.fold` to be
    null, or `Dataset.args.whole` to be true. `utils.evaluations.probe.probe` and
    `utils.evaluations.split_probe.probe_splits` describe the resulting tables.

    Args:
        C: inverse strength of the probe's L2 penalty, above 0. Of several values, the best one on the
            official validation split is used; the test split has no part in it.
        baseline: baseline to probe as well: "log-mel" for statistics of each clip's log-mel spectrogram,
            computed from the task's audio input; None for no baseline.
    """

    def __init__(
        self, *, C: float | Sequence[float] = 1.0, baseline: Literal["log-mel"] | None = None
    ) -> None:
        if baseline not in (None, "log-mel"):
            raise ValueError(f'baseline is "{baseline}"; allowed: log-mel, null.')
        self._C = penalties(C)
        self._baseline = baseline

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:
        """Check that the whole data set is evaluated and has official splits or folds."""
        if splits := tuple(getattr(test, "official_splits", ())):
            if not {TRAIN, TEST} <= set(splits):
                raise ValueError(
                    "the linear probe trains on the official training split and tests on the test split; the "
                    f"data set has {' and '.join(splits)} only. Set Dataset.args.whole to true."
                )
            if len(self._C) > 1 and VALIDATION not in splits:
                raise ValueError(
                    f"C is {list(self._C)}, to be chosen on a validation split, which the data set lacks; "
                    "give one value, or set Dataset.args.validation_share."
                )
        else:
            self._check_folds(test)
        if not getattr(test, "class_names", None):
            raise ValueError(f"{type(test).__name__} has no class_names; a probe is fitted to labels.")
        if self._baseline and not hasattr(test, "sample_rate"):
            raise ValueError('the baseline "log-mel" needs the sample_rate of the data set, which has none.')
        super().prepare(model, task, test=test)
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def _check_folds(self, test: Any) -> None:
        if held_out := held_out_folds(test):
            numbers = ", ".join(map(str, held_out))
            raise ValueError(
                "the linear probe holds out each fold in turn, so it needs features of the whole data set; "
                f"Dataset.args.fold selects {numbers} only. Set it to null."
            )
        if (count := len(folds(test))) < 2:
            raise ValueError(f"the linear probe needs at least two folds; the data set has {count}.")
        if len(self._C) > 1:
            raise ValueError(
                f"C is {list(self._C)}; with folds, there is no validation split to choose on. Give one."
            )

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        """Collect the features of a batch and the statistics of its audio."""
        if self._baseline:
            statistics = log_mel_statistics(_clips(batch.audio), self._dataset.sample_rate)
            features = {**(output.features or {}), BASELINE_ROW: torch.from_numpy(statistics)}
            output = output._replace(features=features)
        super().step(model, indices, batch, output)

    def finish(self, folder: Path) -> FigureTable:  # noqa: ARG002
        """Train and test the probe."""
        return probe_table(self.table(), C=self._C, device=self._device)


def log_mel_statistics(clips: Iterable[Tensor], sample_rate: int) -> NDArray[np.float32]:
    """Compute the mean and standard deviation over time of each clip's mel bands in decibels.

    The channels are averaged and scaled to [-1, 1]. librosa computes a mel spectrogram (64 bands, Hann
    windows of 2048 samples, hop of 512) and converts it with `power_to_db`, whose floor is 80 dB below the
    clip's maximum.

    Args:
        clips: clips `[C, T]` in 16-bit units, of any length; clips shorter than a window are zero-padded.
        sample_rate: sample rate of the clips, in Hz.

    Returns:
        64 means and 64 standard deviations per clip, float32 `[clips, 128]`.
    """
    import librosa

    rows = []
    for clip in clips:
        mono = clip.detach().float().mean(dim=0).cpu().numpy() / _FULL_SCALE
        mono = np.pad(mono, (0, max(0, _N_FFT - len(mono))))
        power = librosa.feature.melspectrogram(
            y=mono, sr=sample_rate, n_fft=_N_FFT, hop_length=_HOP_SAMPLES, n_mels=BANDS
        )
        decibels = librosa.power_to_db(power)  # [BANDS, N]
        rows.append(np.concatenate([decibels.mean(axis=1), decibels.std(axis=1)]))
    return np.stack(rows).astype(np.float32)


def _clips(audio: Tensor | PaddedBatch) -> Iterator[Tensor]:
    """Yield the clips in a batch, each `[C, T]` without padding."""
    if isinstance(audio, PaddedBatch):
        return (clip[:, :length] for clip, length in zip(audio.values, audio.lengths.tolist(), strict=True))
    return iter(audio)
