"""Zero-shot classification of audio and images with the learned similarity scales."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES
from .clip.image_input import IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from .embedding import Units, clips_of_batch, embed_audio, embed_image, embed_text
from .inputs import IMAGE_KINDS, MAX_CHANNELS, several
from .interfaces import AudioTextModel, ThreeModalityModel

Kind: TypeAlias = Literal["audio", "image"]
KINDS: tuple[Kind, ...] = ("audio", "image")

SUFFIXES: dict[str, Kind] = {
    # Formats without a decoder are included because the readers' errors say how to convert them.
    **dict.fromkeys(sorted(AUDIO_SUFFIXES | UNDECODED_AUDIO_SUFFIXES), "audio"),
    **dict.fromkeys(sorted(IMAGE_SUFFIXES | UNDECODED_IMAGE_SUFFIXES), "image"),
}


def classify(
    model: AudioTextModel,
    inputs: Any,
    labels: Iterable[str],
    *,
    template: str = "{}",
    kind: Kind | None = None,
    sample_rate: float | None = None,
    units: Units = "int16",
    batched: bool = False,
) -> Tensor:
    """Compute label probabilities for audio and images: the softmax over scaled similarities.

    The scale is the one learned for audio and text, or for images and text. The probabilities of all labels
    add up to 1: some label is the most probable even if none is right, and a single label has probability 1.
    For labels that differ from the training labels, even high probabilities are far less reliable. The model
    does not know its training labels, so it cannot warn.

    Args:
        model: model to classify with, in eval mode and without gradients.
        inputs: one input or several, as for `embed_audio` and `embed_image`; the two kinds may be mixed.
            Unless `kind` is given, a path's suffix or a binary file's content decides between audio and
            image. An array or tensor is an image if its dtype is uint8 or bool (for arrays, any unsigned
            integer) or its shape `[1, H, W]`, `[3, H, W]` or `[H, W, 3]`, several images if it has four
            dimensions, and audio otherwise.
        labels: K different texts.
        template: prompt template such as "a sound of {}", in which each label replaces `{}`.
        kind: "audio" or "image" for all inputs; None to decide for each input.
        sample_rate: sample rate of audio arrays, Hz.
        units: units of floating-point audio arrays, see `embed_audio`.
        batched: True if `inputs` is one array or tensor of several clips, `[B, T]` or `[B, C, T]`.

    Returns:
        float32 `[n, K]` on the model's device, with a row for each input and a column for each label. Rows
        sum to 1.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A label is empty, too long, repeated or not a text, or an input cannot be used; the
            message says which and why.
    """
    if kind not in (None, *KINDS):
        raise ValueError(
            f'kind is {kind!r}; "audio" and "image" are allowed, or None to decide for each input.'
        )
    texts = embed_labels(model, labels, template)
    sources = list(clips_of_batch(inputs) if batched else several(inputs, IMAGE_KINDS))
    if not sources:
        raise ValueError("Nothing to classify: the list of inputs is empty.")
    kinds = [kind or kind_of(source, name=f"Input {place}") for place, source in enumerate(sources)]
    probabilities = texts.new_empty(len(sources), len(texts))
    for present in dict.fromkeys(kinds):
        rows = [row for row, kind_of_row in enumerate(kinds) if kind_of_row == present]
        chosen = [sources[row] for row in rows]
        if present == "audio":
            features = embed_audio(model, chosen, sample_rate=sample_rate, units=units)
        elif isinstance(model, ThreeModalityModel):
            features = embed_image(model, chosen)
        else:
            raise ValueError(
                f"Input {rows[0]} is an image, which {type(model).__name__} cannot embed; AudioCLIP can."
            )
        probabilities[rows] = label_probabilities(model, present, features, texts)
    return probabilities


def embed_labels(model: AudioTextModel, labels: Iterable[str], template: str = "{}") -> Tensor:
    """Embed the labels for zero-shot classification: float32 `[K, D]`, each row of norm 1.

    Raises:
        ValueError: There are no labels; a label is empty, too long or not a text; two labels have the same
            tokens, which ignore case and extra spaces; or the template lacks `{}`.
    """
    given: Any = labels
    names: list[Any] = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not names:
        raise ValueError(f'labels is {labels!r}; expected a list of one or more texts, ["dog", "rain"].')
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"labels[{place}] is {name!r}; expected a text that is not empty.")
    known: dict[tuple[int, ...], int] = {}
    for place, tokens in enumerate(model.tokenize(names, template).tolist()):
        before = known.setdefault(tuple(tokens), place)
        if before != place:
            raise ValueError(
                f"labels[{before}] {names[before]!r} and labels[{place}] {names[place]!r} are the same text; "
                "remove one."
            )
    return embed_text(model, names, template)


@torch.no_grad()
def label_probabilities(model: AudioTextModel, kind: Kind, features: Tensor, texts: Tensor) -> Tensor:
    """Compute label probabilities from embeddings of norm 1.

    Args:
        model: model with the learned scales.
        kind: modality of the features.
        features: audio or image embeddings, `[n, D]`.
        texts: label embeddings, `[K, D]`.

    Returns:
        `[n, K]`; rows sum to 1.
    """
    if kind == "audio":
        logits = model.logits(audio_features=features, text_features=texts).audio_text
    else:
        logits = model.logits(image_features=features, text_features=texts).image_text
    assert logits is not None, "both features are given"
    return logits.softmax(dim=-1)


def kind_of(source: Any, *, name: str) -> Kind:
    """Decide whether a path, binary file, array, tensor or PIL image is audio or an image.

    Raises:
        ValueError: The kind cannot be determined; the message says what to do.
    """
    if isinstance(source, Image.Image):
        return "image"
    if isinstance(source, np.ndarray | Tensor):
        dtype: Any = source.dtype
        has_pixels = dtype in (torch.uint8, torch.bool) if isinstance(source, Tensor) else dtype.kind in "ub"
        return "image" if has_pixels or _has_shape_of_picture(source) else "audio"
    if hasattr(source, "read") and hasattr(source, "seekable") and source.seekable():
        start = source.tell()
        try:
            Image.open(source)
        except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
            return "audio"
        finally:
            source.seek(start)
        return "image"
    if not isinstance(source, str | Path):
        raise ValueError(f'{name} is a {type(source).__name__}; pass kind="audio" or kind="image".')
    kind = SUFFIXES.get(Path(source).suffix.lower())
    if kind is None and os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises on long texts
        raise ValueError(f"{source} is a folder; pass the paths of its files.")
    if kind is None:
        raise ValueError(
            f"{source}: neither a sound nor an image by its suffix. Give a file with a known one (.wav, "
            '.flac, .mp3, .jpg, .png ...), or pass kind="audio" or kind="image".'
        )
    return kind


def _has_shape_of_picture(source: np.ndarray[Any, Any] | Tensor) -> bool:
    """Return whether the shape is [1, H, W], [3, H, W] or [H, W, 3] rather than [B, C, T]."""
    return (
        source.ndim == 3
        and source.shape[1] > MAX_CHANNELS
        and (source.shape[0] in (1, 3) or source.shape[2] == 3)
    )
