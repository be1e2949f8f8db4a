"""AudioCLIP as a model of the HEAR benchmark (arXiv 2203.03022): embeddings of clips and of points in time.

The packages `hearvalidator` and `heareval` import this module by its name and call its functions.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.embedding import SAMPLE_RATE
from utils.benchmarks.shared import embed_frames

HOP_MS = 50
"""Time between timestamps; HEAR asks for at most 50 ms."""


class HearModel(nn.Module):
    """An AudioCLIP with the attributes that HEAR reads.

    Args:
        audioclip: the model that embeds.

    Attributes:
        sample_rate: sample rate of audio, Hz.
        scene_embedding_size: dimension D of the embedding of a clip.
        timestamp_embedding_size: dimension of the embedding of a point in time, also D.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, audioclip: AudioCLIP) -> None:
        super().__init__()
        self.audioclip = audioclip
        self.scene_embedding_size = self.timestamp_embedding_size = audioclip.audio.fc.out_features


def load_model(model_file_path: str | Path = "AudioCLIP-Full-Training") -> HearModel:
    """Load any AudioCLIP.

    Args:
        model_file_path: anything that `AudioCLIP.from_pretrained` takes.

    Raises:
        WeightsError: The weights do not exist or belong to another model.
    """
    return HearModel(AudioCLIP.from_pretrained(model_file_path))


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embed clips as `AudioCLIP.embed_audio` does.

    Args:
        audio: float `[B, T]` in [-1, 1], 44.1 kHz.
        model: model from `load_model`.

    Returns:
        float32 `[B, D]`, each row of norm 1.
    """
    return model.audioclip.embed_audio(audio, sample_rate=SAMPLE_RATE, units="float", batched=True)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embed a second of audio around each timestamp: 25, 75, 125 ... ms.

    `embed_frames` describes the windows.

    Args:
        audio: float `[B, T]` in [-1, 1], 44.1 kHz.
        model: model from `load_model`.

    Returns:
        Embeddings, float32 `[B, N, D]` of norm 1, and timestamps, `[B, N]`, ms.
    """
    return embed_frames(model.audioclip, audio, hop_ms=HOP_MS)
