"""A baseline that nothing was learned for: the statistics of a clip's log-mel spectrogram."""

# ruff: noqa: PLC0415 (librosa takes seconds to import)

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BANDS = 64
_N_FFT = 2048
_HOP_SAMPLES = 512
_FULL_SCALE = 32768.0


def log_mel_statistics(clips: Iterable[Tensor], sample_rate: int) -> NDArray[np.float32]:
    """Describe each clip by mean and standard deviation, over time, of its mel bands in decibels.

    The channels' mean, in [-1, 1], goes through librosa's mel spectrogram (64 bands, Hann windows of 2048
    samples every 512) and `power_to_db`, whose floor is 80 dB below the clip's loudest value.

    Args:
        clips: each `[C, T]` in 16-bit units, of any length; shorter than a window they are padded with zeros.
        sample_rate: Hz.

    Returns:
        float32 `[clips, 128]`: 64 means, 64 standard deviations.
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
