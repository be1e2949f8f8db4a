"""Files, arrays and texts to L2-normalised embeddings, for use outside training.

Decoding and batches are here; windows are windows.py's, the networks the model's. Everything is computed in
eval mode without gradient, and the modes are put back afterwards.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.audio_input import INT16_SCALE, Waveform, read_audio, resample
from model.clip import Text
from model.image_input import ImageInput, preprocess_image
from model.windows import WindowedEmbedding

if TYPE_CHECKING:
    from model.audioclip import AudioCLIP

AudioInput: TypeAlias = str | Path | np.ndarray[Any, Any] | Tensor
Units: TypeAlias = Literal["int16", "float"]
T = TypeVar("T")

SAMPLE_RATE = 44100
"""What the audio tower was trained on, Hz."""

_LOUDEST_FLOAT = 8.0  # decoders and mixes overshoot 1; 18 dB is no overshoot but another unit
_MAX_CHANNELS = 32  # a "channel" axis longer than this is the time axis in the wrong place


def embed_audio(
    model: "AudioCLIP",
    inputs: AudioInput | Iterable[AudioInput],
    *,
    sample_rate: int | None = None,
    units: Units = "int16",
    batch_size: int = 16,
    window_seconds: float = 5.0,
) -> Tensor:
    """Embed audio files or arrays.

    A clip longer than a window is cut into evenly spaced windows that cover it, the embeddings of which are
    averaged. Only windows of one length share a batch, so nothing is padded, and a clip's embedding does
    not depend on the others'.

    Args:
        model: whose audio tower is used.
        inputs: one or several of: path of an audio file; array or tensor `[T]` or `[C, T]`, int16 or
            floating point.
        sample_rate: of the arrays, Hz; files know theirs. Everything is resampled to 44.1 kHz.
        units: of floating-point arrays. "int16": -32768..32767. "float": -1..1, to be scaled by 32768.
        batch_size: windows encoded at once.
        window_seconds: length of a window.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file or array cannot be used; the message says which and why.
    """
    if batch_size < 1 or window_seconds <= 0:
        raise ValueError(f"batch_size {batch_size} and window_seconds {window_seconds} must be positive.")
    single = isinstance(inputs, (str, Path, np.ndarray, Tensor))
    sources: Iterable[AudioInput] = [inputs] if single else inputs  # type: ignore[assignment, list-item]

    def encode(audio: Tensor) -> Tensor:
        # The units are known here; one quiet window by itself must not look like audio in [-1, 1].
        features: Tensor = model.audio(audio.to(model.device), check_units=False)
        return features

    window = max(1, round(window_seconds * SAMPLE_RATE))
    embedding = WindowedEmbedding(encode, window=window, batch_size=batch_size)
    with evaluating(model), torch.no_grad():
        for clip, source in enumerate(sources):
            waveform = _waveform(source, sample_rate=sample_rate, units=units, name=f"Audio input {clip}")
            embedding.add(torch.from_numpy(waveform))
        return embedding.embeddings()


def embed_image(
    model: "AudioCLIP", inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 64
) -> Tensor:
    """Embed images, prepared as the image tower was trained.

    Args:
        model: whose image tower is used.
        inputs: one or several of: path of an image file; PIL image; uint8 array `[H, W]` or `[H, W, 3]`.
        batch_size: images encoded at once.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file or array cannot be used; the message says which and why.
    """
    from PIL import Image  # noqa: PLC0415 - only to tell one image from several

    single = isinstance(inputs, (str, Path, np.ndarray, Image.Image))
    sources: Iterable[ImageInput] = [inputs] if single else inputs  # type: ignore[assignment, list-item]
    embeddings: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in _batches(sources, batch_size):
            images = [preprocess_image(source, preprocessing=model.image_preprocessing) for source in batch]
            features = model.encode_image(torch.stack(images).to(model.device))
            embeddings.extend(features.float().unbind())
    return F.normalize(_stacked(embeddings), dim=-1)


def embed_text(
    model: "AudioCLIP", texts: str | Text, template: str = "{}", *, batch_size: int = 256
) -> Tensor:
    """Embed texts.

    Args:
        model: whose text tower is used.
        texts: one string, or several entries: each a string, or a list of labels, joined with ", ".
        template: `{}` stands for the entry.
        batch_size: texts encoded at once.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        ValueError: a text is too long, or the template lacks its `{}`.
    """
    entries: Sequence[str | Sequence[str]] = [texts] if isinstance(texts, str) else texts
    embeddings: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in _batches(entries, batch_size):
            embeddings.extend(model.encode_text(batch, template).float().unbind())
    return F.normalize(_stacked(embeddings), dim=-1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and each of its children back into its own mode at the end."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode  # not .train(mode), which would carry it on to the children


def _waveform(source: AudioInput, *, sample_rate: int | None, units: Units, name: str) -> Waveform:
    """Turn a path or an array into float32 `[C, T]` in 16-bit units at 44.1 kHz."""
    if units not in ("int16", "float"):
        raise ValueError(f'units is {units!r}; "int16" and "float" are allowed.')
    if isinstance(source, (str, Path)):
        return read_audio(source, SAMPLE_RATE)
    if not isinstance(source, (np.ndarray, Tensor)):
        raise ValueError(f"{name} is a {type(source).__name__}; expected a path, an array or a tensor.")
    array: np.ndarray[Any, Any] = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if sample_rate is None:
        raise ValueError(f"{name} is an array; sample_rate must say its sample rate.")
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2 or array.size == 0 or array.shape[0] > _MAX_CHANNELS:
        raise ValueError(f"{name} has shape {list(source.shape)}; expected samples [T], or channels [C, T].")
    return resample(_scaled(array, units=units, name=name), sample_rate, SAMPLE_RATE)


def _scaled(array: np.ndarray[Any, Any], *, units: Units, name: str) -> Waveform:
    """Check type and range of an array, and bring it to float32 in 16-bit units."""
    if array.dtype == np.int16:
        return array.astype(np.float32)  # says its units itself
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has type {array.dtype}; expected int16 or floating point.")
    peak = float(np.abs(array).max())
    if not math.isfinite(peak):
        raise ValueError(f"{name} has samples that are not finite.")
    if units == "float":
        if peak > _LOUDEST_FLOAT:
            raise ValueError(
                f'{name} has a peak of {peak:.3g}: with units="float", -1..1 is expected. For 16-bit units '
                'say units="int16".'
            )
        return (array * INT16_SCALE).astype(np.float32)
    if 0.0 < peak <= 1.0:
        raise ValueError(
            f"{name} has a peak of {peak:.3g}: it looks like [-1, 1], but 16-bit units (-32768..32767) are "
            'expected. Say units="float" to have it scaled, or multiply it by 32768.'
        )
    return array.astype(np.float32)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if size < 1:
        raise ValueError(f"batch_size is {size}; it must be positive.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _stacked(embeddings: list[Tensor]) -> Tensor:
    if not embeddings:
        raise ValueError("Nothing to embed: the list of inputs is empty.")
    return torch.stack(embeddings)
