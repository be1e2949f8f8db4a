"""Embeddings of three modalities to logits: normalised features, compared pair by pair under a scale."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOGIT_SCALE = 100.0


class Features(NamedTuple):
    """Embeddings `[B, D]` of the modalities given, L2-normalised; None for the others."""

    audio: Tensor | None
    image: Tensor | None
    text: Tensor | None


class Logits(NamedTuple):
    """Scaled similarities `[rows, columns]` of the pairs given; None for the others."""

    audio_image: Tensor | None
    audio_text: Tensor | None
    image_text: Tensor | None


def normalised(features: Tensor) -> Tensor:
    """Divide embeddings `[..., D]` by their L2 norms, in float32, or float64 where that is their type."""
    unit: Tensor = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    return unit


def clamped_scale(log_scale: Tensor) -> Tensor:
    """Compute `clamp(exp(s), 1, 100)` of a scale that is learned as its logarithm.

    The exponent is clamped, not the result: so at log(100), where scales start, the gradient passes however
    the exponential rounds.
    """
    return log_scale.clamp(0.0, math.log(MAX_LOGIT_SCALE)).exp()


def scaled_similarity(log_scale: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor | None:
    """Compare normalised features `[rows, D]` and `[columns, D]`: `[rows, columns]`, None if one is None.

    Not under autocast: times 100, a cosine in bfloat16 would tie whole classes.
    """
    if rows is None or columns is None:
        return None
    with torch.autocast(rows.device.type, enabled=False):
        return clamped_scale(log_scale) * rows @ columns.T
