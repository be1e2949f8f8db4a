"""Embeds files with a model, without keeping the embeddings, and scores labels for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..audioclip import AudioCLIP
from ..zero_shot import Kind, label_probabilities
from .store import Embedding


class Unusable(NamedTuple):
    """A file that cannot be embedded."""

    reason: str
    """Error message, without the name of the file."""
    is_permanent: bool
    """Whether the content is the reason, instead of, for example, too many open files."""


def embed_files(
    model: AudioCLIP, kind: Kind, paths: Sequence[Path], *, batch_size: int = 16
) -> list[Embedding | Unusable]:
    """Embed files of one kind; return each file's embedding `[D]`, or the reason why there is none.

    `batch_size` windows of sounds or images are encoded at once.
    """
    embed = model.embed_audio if kind == "audio" else model.embed_image
    try:
        return [*embed(paths, batch_size=batch_size).cpu().numpy()]
    except (ValueError, OSError) as error:
        if len(paths) == 1:
            return [Unusable(reason_of(error, paths[0]), is_permanent=isinstance(error, ValueError))]
    # One of the files is unusable, so embed each alone; embeddings do not depend on each other.
    return [result for path in paths for result in embed_files(model, kind, [path], batch_size=batch_size)]


def score_labels(model: AudioCLIP, kind: Kind, embedding: Embedding, texts: Tensor) -> list[float]:
    """Return the probabilities of K labels, given a file's embedding `[D]` and the labels' `[K, D]`."""
    features = torch.from_numpy(embedding[None].copy()).to(texts.device)
    probabilities: list[float] = label_probabilities(model, kind, features, texts)[0].tolist()
    return probabilities


def reason_of(error: ValueError | OSError, path: Path) -> str:
    """Return an error message without the name of the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return str(error).removeprefix(f"{path}: ")
