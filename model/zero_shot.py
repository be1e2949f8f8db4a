"""Zero-shot classification: how probable labels are for sounds and pictures, by the learned scales."""

# ruff: noqa: D102 (members of the protocol are documented in `AudioCLIP`)

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES
from .clip.image_input import IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from .clip.texts import Text
from .embedding import Towers, Units, clips_of_batch, embed_audio, embed_image, embed_text
from .inputs import IMAGE_KINDS, MOST_CHANNELS, several
from .losses import Logits

Kind: TypeAlias = Literal["audio", "image"]
KINDS: tuple[Kind, ...] = ("audio", "image")

SUFFIXES: dict[str, Kind] = {
    # those that are not decoded, too: what reads them says how to convert them
    **dict.fromkeys(sorted(AUDIO_SUFFIXES | UNDECODED_AUDIO_SUFFIXES), "audio"),
    **dict.fromkeys(sorted(IMAGE_SUFFIXES | UNDECODED_IMAGE_SUFFIXES), "image"),
}


class ScaledTowers(Towers, Protocol):
    """The parts of an `AudioCLIP` that classification uses: its towers, tokenizer and learned scales."""

    def tokenize(self, text: Text, base_str: str, /) -> Tensor: ...

    def logits(
        self,
        audio_features: Tensor | None = None,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Logits: ...


def classify(
    model: "ScaledTowers",
    inputs: Any,
    labels: Iterable[str],
    *,
    template: str = "{}",
    kind: Kind | None = None,
    sample_rate: float | None = None,
    units: Units = "int16",
    batched: bool = False,
) -> Tensor:
    """Say how probable labels are for sounds and pictures: softmax over scaled similarities.

    The scale is the one that the model learned between audio and text, or image and text. The labels share
    the probability among themselves: one of them is the most probable even where none is right, and a single
    label has probability 1. That of a label unlike those that the model was trained on is far less reliable,
    however high it is; a model does not know which they were, so nothing warns of it.

    Args:
        model: its towers are used in eval mode, without gradient.
        inputs: one or several of what `embed_audio` and `embed_image` take: paths, binary files, arrays,
            tensors, PIL images. They may be mixed. Told apart are paths by their suffixes, binary files by
            their content, arrays and tensors by type and shape: those of unsigned integers and `[1, H, W]`,
            `[3, H, W]` or `[H, W, 3]` are a picture, those of four dimensions several, others audio, unless
            `kind` says otherwise.
        labels: K texts, all different.
        template: text of a label, `{}` stands for it: "a sound of {}".
        kind: "audio" or "image", of all inputs, where suffixes and types do not tell.
        sample_rate: of arrays of audio, Hz.
        units: of floating-point arrays of audio, see `embed_audio`.
        batched: True: `inputs` is one array or tensor of several clips, `[B, T]` or `[B, C, T]`.

    Returns:
        float32 `[n, K]` on the model's device: a row for each input, in the order of `inputs`, a column for
        each label. Each row adds up to 1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a label is empty, no text, too long or there twice; or an input cannot be used; the
            message says which and why.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f'kind is {kind!r}; "audio" and "image" are allowed, or None to tell by the input.')
    texts = embed_labels(model, labels, template)
    sources = list(clips_of_batch(inputs) if batched else several(inputs, IMAGE_KINDS))
    if not sources:
        raise ValueError("Nothing to classify: the list of inputs is empty.")
    kinds = [kind or kind_of(source, name=f"Input {place}") for place, source in enumerate(sources)]
    found = texts.new_empty(len(sources), len(texts))
    for each in KINDS:
        rows = [row for row, one in enumerate(kinds) if one == each]
        if rows:
            chosen = [sources[row] for row in rows]
            if each == "audio":
                features = embed_audio(model, chosen, sample_rate=sample_rate, units=units)
            else:
                features = embed_image(model, chosen)
            found[rows] = label_probabilities(model, each, features, texts)
    return found


def embed_labels(model: "ScaledTowers", labels: Iterable[str], template: str = "{}") -> Tensor:
    """Embed the labels of a classification: float32 `[K, D]`, each of norm 1.

    Raises:
        ValueError: there is none; one is empty, no text, or too long; two are the same to the text tower,
            which may ignore case and spaces; or the template lacks its `{}`.
    """
    names: list[Any]  # anything, by mistake
    try:
        names = [] if isinstance(labels, str) else list(labels)
    except TypeError:
        names = []
    if not names:
        raise ValueError(f'labels is {labels!r}; a list of one or more texts is expected, ["dog", "rain"].')
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"labels[{place}] is {name!r}; a text is expected that is not empty.")
    known: dict[tuple[int, ...], int] = {}
    for place, tokens in enumerate(model.tokenize(names, template).tolist()):
        before = known.setdefault(tuple(tokens), place)
        if before != place:
            raise ValueError(
                f"labels[{before}] {names[before]!r} and labels[{place}] {names[place]!r} are the same text; "
                "leave one out."
            )
    return embed_text(model, names, template)


@torch.no_grad()
def label_probabilities(model: "ScaledTowers", kind: Kind, features: Tensor, texts: Tensor) -> Tensor:
    """Compute the probabilities `[n, K]` of labels from embeddings of norm 1.

    Args:
        model: whose scales are used.
        kind: of the features.
        features: `[n, D]`, of sounds or of pictures.
        texts: `[K, D]`, of the labels.
    """
    if kind == "audio":
        logits = model.logits(audio_features=features, text_features=texts).audio_text
    else:
        logits = model.logits(image_features=features, text_features=texts).image_text
    assert logits is not None, "both features are given"
    return logits.softmax(dim=-1)


def kind_of(source: Any, *, name: str) -> Kind:
    """Tell a sound from a picture.

    Args:
        source: path, binary file, array, tensor or PIL image.
        name: of the input, for messages.

    Raises:
        ValueError: it cannot be told; the message says what to do.
    """
    if isinstance(source, Image.Image):
        return "image"
    if isinstance(source, np.ndarray):
        return "image" if source.dtype.kind in "ub" or _has_shape_of_picture(source) else "audio"
    if isinstance(source, Tensor):
        is_picture = source.dtype in (torch.uint8, torch.bool) or _has_shape_of_picture(source)
        return "image" if is_picture else "audio"
    if hasattr(source, "read") and hasattr(source, "seekable") and source.seekable():
        return _kind_of_content(source)
    if not isinstance(source, str | Path):
        raise ValueError(f'{name} is a {type(source).__name__}; say kind="audio" or kind="image".')
    kind = SUFFIXES.get(Path(source).suffix.lower())
    if kind is None and os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises on long texts
        raise ValueError(f"{source} is a folder; pass the paths of its files.")
    if kind is None:
        raise ValueError(
            f"{source}: neither a sound nor a picture by its suffix. Give a file with a known one (.wav, "
            '.flac, .mp3, .jpg, .png ...), or say kind="audio" or kind="image".'
        )
    return kind


def _has_shape_of_picture(source: np.ndarray[Any, Any] | Tensor) -> bool:
    """Return whether it is [1, H, W], [3, H, W] or [H, W, 3] rather than clips [B, C, T]."""
    return (
        source.ndim == 3
        and source.shape[1] > MOST_CHANNELS
        and (source.shape[0] in (1, 3) or source.shape[2] == 3)
    )


def _kind_of_content(file: Any) -> Kind:
    """Tell a picture by what Pillow recognises; anything else is a sound."""
    start = file.tell()
    try:
        Image.open(file)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        return "audio"
    finally:
        file.seek(start)
    return "image"
