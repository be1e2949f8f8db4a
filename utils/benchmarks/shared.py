"""Common parts of the adapters for other benchmarks: embeddings of frames, and a name for weights."""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.audioclip import AudioCLIP
from model.embedding import SAMPLE_RATE

WINDOW_MS = 1000
"""Length of the window around the centre of a frame."""


def embed_frames(model: AudioCLIP, audio: Tensor, *, hop_ms: int) -> tuple[Tensor, Tensor]:
    """Cut clips into frames, and embed a window of `WINDOW_MS` around the centre of each frame.

    The clip is surrounded by silence, so that every window has the same length, and its frame in the middle:

             |-------------- T --------------|
             | frame | frame | frame | frame |
        |----- window -----|
                |----- window -----|

    Args:
        model: model that embeds.
        audio: float `[B, T]` in [-1, 1], 44.1 kHz.
        hop_ms: length of a frame, ms.

    Returns:
        Embeddings, float32 `[B, N, D]` of norm 1, and the centres of the frames, `[B, N]`, ms. These are
        `hop_ms` / 2, 3 `hop_ms` / 2 ... before the end of the clip; a shorter clip has one frame.
    """
    samples_per_ms = SAMPLE_RATE / 1000
    window = round(WINDOW_MS * samples_per_ms)
    frames = max(1, math.ceil(audio.shape[1] / (hop_ms * samples_per_ms) - 0.5))
    centres = (torch.arange(frames) + 0.5) * hop_ms
    # With half a window of silence in front, a window starts where the centre of its frame was.
    starts = (centres * samples_per_ms).round().long().tolist()
    end = starts[-1] + window - window // 2
    padded = F.pad(audio.cpu(), (window // 2, max(0, end - audio.shape[1])))
    embeddings = [
        model.embed_audio(
            [clip[start : start + window] for start in starts],
            sample_rate=SAMPLE_RATE,
            units="float",
            window_seconds=WINDOW_MS / 1000,
        )
        for clip in padded
    ]
    return torch.stack(embeddings), centres.expand(len(audio), frames).to(audio.device)


def weights_hash(model: AudioCLIP) -> str:
    """Return a hash of all weights, 16 hexadecimal digits: the packages keep results by the model's name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
