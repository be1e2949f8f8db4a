"""Options, model and class scores of the contrastive tasks."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.losses import Positives, Reduction, scaled_similarity


def check_options(*, positives: str, reduction: str, window_samples: int | None) -> None:
    """Raise a ValueError for an option that a contrastive task cannot have."""
    for name, value, allowed in (
        ("positives", positives, get_args(Positives)),
        ("reduction", reduction, get_args(Reduction)),
    ):
        if value not in allowed:
            raise ValueError(f'{name} is "{value}"; allowed: {", ".join(allowed)}.')
    if window_samples is not None and window_samples < 1:
        raise ValueError(f"window_samples is {window_samples}; a positive number, or null, is expected.")


def audioclip_of(model: nn.Module, task: type) -> AudioCLIP:
    """Return the model; raise a ValueError that names `task` if it is no AudioCLIP."""
    if not isinstance(model, AudioCLIP):
        raise ValueError(
            f"{task.__name__} needs an AudioCLIP model; Model.class is a {type(model).__name__}. For a "
            "classifier use utils.tasks.Classification."
        )
    return model


def class_scores(model: AudioCLIP, features: Tensor, class_features: Tensor) -> Tensor:
    """Score samples over the classes.

    Args:
        model: whose temperature scales the cosines.
        features: of the samples, normalised, `[B, D]`.
        class_features: of the texts of the classes, normalised, `[classes, D]`.

    Returns:
        `softmax(scale * cosine)`, or of a multilabel model `sigmoid(cosine - 0.5)`, `[B, classes]`.
    """
    if model.multilabel:
        return torch.sigmoid(features @ class_features.T - 0.5)
    logits = scaled_similarity(model.logit_scale_at, features, class_features)
    assert logits is not None
    return logits.softmax(dim=-1)
