"""UrbanSound8K (Salamon, Jacoby, Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM MM 2014)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from model.audio_input import Waveform, read_audio
from utils.datasets.folds import FoldDataset
from utils.datasets.sample import Clip
from utils.datasets.sources.recordings import us8k_recording
from utils.datasets.sources.tables import read_table
from utils.fetching.published import URBAN_SOUND_8K, Published

CLIP_SECONDS = 4


class UrbanSound8K(FoldDataset):
    """UrbanSound8K: 10 classes, 8,732 clips of up to 4 s in 10 folds, each rescaled to the full 16-bit range.

    The arguments are `FoldDataset`'s. Unless `mono` is true, mono clips are duplicated to two channels.
    """

    title = URBAN_SOUND_8K.name
    table = URBAN_SOUND_8K.table
    decoding = "resampled, cut to 4 s, stretched"
    published: ClassVar[Published | None] = URBAN_SOUND_8K
    classes = 10
    file_names = r"\d+-(?P<target>\d+)-\d+-\d+\.\w+"

    def read_table(self) -> list[Clip]:
        """List the clips in `metadata/UrbanSound8K.csv`."""
        columns = ["slice_file_name", "fold", "classID", "class"]
        return [
            Clip(
                path=f"audio/fold{row.required_number('fold')}/{row.file_name('slice_file_name')}",
                fold=row.required_number("fold"),
                target=row.required_number("classID"),
                label=row.required("class").replace("_", " "),
                source=us8k_recording(row),
            )
            for row in read_table(self.root / self.table, columns)
        ]

    def decode(self, path: Path) -> Waveform:
        """Decode one clip; resample it, convert it to mono or stereo, cut it and rescale it."""
        audio = read_audio(path, self.sample_rate, mono=bool(self.mono))
        return stretch(audio[:, : CLIP_SECONDS * self.sample_rate])


def stretch(audio: Waveform) -> Waveform:
    """Shift and scale a clip so that its minimum becomes -32768 and its maximum 32767.

    This follows the published code, as a recording's loudness says nothing about its class. All channels are
    rescaled together. A constant clip becomes silence.

    Args:
        audio: clip, float32 `[C, T]`.

    Returns:
        The rescaled clip, float32 `[C, T]`, 16-bit units.
    """
    low, high = float(audio.min()), float(audio.max())
    if low == high:
        return np.zeros_like(audio)
    return ((audio.astype(np.float64) - low) / (high - low) * 65535 - 32768).astype(np.float32)
