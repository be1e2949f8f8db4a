"""AudioCLIP as an encoder of the X-ARES benchmark (arXiv 2505.16369).

The package `xares` imports this file and builds, without arguments, the only class whose name ends with
"Encoder"; environment variables name the model.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.embedding import SAMPLE_RATE
from utils.benchmarks.shared import embed_frames, weights_hash


class AudioCLIPEncoder(nn.Module):
    """Embeds clips, or the frames of clips.

    The environment variable AUDIOCLIP_MODEL is anything that `AudioCLIP.from_pretrained` takes, by default
    "AudioCLIP-Full-Training". AUDIOCLIP_HOP_MS is the length of a frame in ms, for tasks with labels in time
    and for speech recognition; without it, each clip has one embedding.

    Attributes:
        sampling_rate: sample rate of audio, Hz.
        output_dim: dimension D of an embedding.
        hop_size_in_ms: length of a frame; 0 if a clip has one embedding, so that tasks with labels in time,
            which divide by it, end with an error.
    """

    sampling_rate = SAMPLE_RATE

    def __init__(self) -> None:
        super().__init__()
        self.audioclip = AudioCLIP.from_pretrained(
            os.environ.get("AUDIOCLIP_MODEL", "AudioCLIP-Full-Training")
        )
        self.output_dim = self.audioclip.audio.fc.out_features
        self.hop_size_in_ms = _hop_ms(os.environ.get("AUDIOCLIP_HOP_MS"))
        # xares keeps embeddings and scores by the name of the class, so each model needs a class of its own.
        name = f"AudioCLIP_{weights_hash(self.audioclip)}_{self.hop_size_in_ms}ms_Encoder"
        own: Any = type(name, (AudioCLIPEncoder,), {})
        self.__class__ = own

    def forward(self, audio: Tensor) -> Tensor:
        """Embed float audio `[B, T]` in [-1, 1]; return float32 `[B, N, D]` of norm 1; N is 1 for clips."""
        if self.hop_size_in_ms:
            return embed_frames(self.audioclip, audio, hop_ms=self.hop_size_in_ms)[0]
        embeddings = self.audioclip.embed_audio(audio, sample_rate=SAMPLE_RATE, units="float", batched=True)
        return embeddings[:, None]


def _hop_ms(given: str | None) -> int:
    if given is None:
        return 0
    if not given.isdecimal() or int(given) == 0:
        raise ValueError(
            f"AUDIOCLIP_HOP_MS is {given!r}; it must be a positive whole number of ms, such as 50."
        )
    return int(given)
