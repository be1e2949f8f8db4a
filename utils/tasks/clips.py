"""The audio of a batch to embeddings in evaluation: as it is, or by windows where clips are too long."""

from __future__ import annotations

from itertools import repeat

from torch import Tensor

from ignite_trainer.api.batch import PaddedBatch
from model.audioclip import AudioCLIP
from model.losses import normalised
from model.windows import WindowedEmbedding


def embed_clips(model: AudioCLIP, audio: Tensor | PaddedBatch, *, window_samples: int | None) -> Tensor:
    """Embed clips, of unequal length where they are a `PaddedBatch`.

    Args:
        model: in eval mode.
        audio: `[B, C, T]`, 16-bit units.
        window_samples: of a clip longer than this the embeddings of evenly spaced windows are averaged; None:
            every clip goes through the tower as a whole.

    Returns:
        Normalised, float32 `[B, D]`.
    """

    def encode(clips: Tensor) -> Tensor:
        # The units were looked at before the run; a quiet batch is no mistake.
        features: Tensor = model.audio(clips, check_units=False)
        return features

    values, lengths = audio if isinstance(audio, PaddedBatch) else (audio, None)
    longest = values.shape[-1]
    window = window_samples or longest
    if lengths is None and longest <= window:
        return normalised(encode(values))
    embedding = WindowedEmbedding(encode, window=window, batch_size=len(values))
    for clip, length in zip(values, repeat(longest) if lengths is None else lengths.tolist(), strict=False):
        embedding.add(clip[:, :length])
    return embedding.embeddings()
