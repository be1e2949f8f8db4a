"""Files, arrays and texts to L2-normalised embeddings, for use outside training.

Decoding and batches are here; windows are windows.py's, the networks the model's. Everything is computed in
eval mode without gradient, and the modes are put back afterwards.
"""

# ruff: noqa: D102 (members of the protocol are documented in `AudioCLIP`)

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio_input import INT16_SCALE, Waveform, read_audio, resample
from .clip.image_input import ImageInput, ImagePreprocessing, preprocess_image
from .clip.texts import Text, check_texts
from .inputs import (
    AUDIO_KINDS,
    IMAGE_KINDS,
    MOST_CHANNELS,
    describe,
    is_count,
    is_positive,
    searchable,
    several,
)
from .sounds.decoding import HIGHEST_RATE, LOWEST_RATE, refuse_loud
from .windows import WindowedEmbedding

AudioInput: TypeAlias = str | Path | BinaryIO | np.ndarray[Any, Any] | Tensor
Units: TypeAlias = Literal["int16", "float"]
T = TypeVar("T")

SAMPLE_RATE = 44100
"""What the audio tower was trained on, Hz."""

_SEVERAL_CLIPS = "Several clips, [B, T] or [B, C, T], are passed with batched=True or as a list of clips."


class Towers(Protocol):
    """The parts of an `AudioCLIP` that embedding uses."""

    @property
    def audio(self) -> Callable[..., Tensor]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def image_preprocessing(self) -> ImagePreprocessing: ...

    def encode_image(self, image: Tensor, /) -> Tensor: ...

    def encode_text(self, text: Text, base_str: str, /) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...


def embed_audio(
    model: "Towers",
    inputs: AudioInput | Iterable[AudioInput],
    *,
    sample_rate: float | None = None,
    units: Units = "int16",
    batched: bool = False,
    batch_size: int = 16,
    window_seconds: float = 5.0,
) -> Tensor:
    """Embed audio files or arrays.

    A clip longer than a window is cut into evenly spaced windows that cover it, the embeddings of which are
    averaged. Only windows of one length share a batch, so nothing is padded, and a clip's embedding does
    not depend on the others'.

    Args:
        model: whose audio tower is used.
        inputs: one or several of: path of an audio file; its content as a binary file, such as `io.BytesIO`;
            array or tensor `[T]` or `[C, T]` of at most 8 channels, int16 or floating point of any width.
        sample_rate: of the arrays, Hz; files know theirs. Everything is resampled to 44.1 kHz.
        units: of floating-point arrays. "int16": -32768..32767. "float": -1..1, to be scaled by 32768.
        batched: True: `inputs` is one array or tensor of several clips, `[B, T]` or `[B, C, T]`.
        batch_size: windows encoded at once.
        window_seconds: length of a window.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument, a file or an array cannot be used; the message says which and why.
    """
    _check_audio_arguments(sample_rate, units, batch_size, window_seconds)
    sources = clips_of_batch(inputs) if batched else several(inputs, AUDIO_KINDS)

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
    model: "Towers", inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 64
) -> Tensor:
    """Embed images, prepared as the image tower was trained.

    Args:
        model: whose image tower is used.
        inputs: one or several of: path of an image file; its content as a binary file, such as `io.BytesIO`;
            PIL image; uint8 array `[H, W]` or `[H, W, 3]`; tensor `[H, W]`, `[1, H, W]` or `[3, H, W]`, uint8
            or floating point in 0..1. Arrays and tensors of four dimensions are several images.
        batch_size: images encoded at once.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file, an image or an array cannot be used; the message says which and why.
    """
    sources = several(inputs, IMAGE_KINDS)
    embeddings: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in _batches(enumerate(sources), batch_size):
            images = [
                preprocess_image(
                    source,
                    preprocessing=model.image_preprocessing,
                    name=None if isinstance(source, str | Path) else f"Image input {number}",
                )
                for number, source in batch
            ]
            features = model.encode_image(torch.stack(images).to(model.device))
            embeddings.extend(features.float().unbind())
    return F.normalize(_stacked(embeddings), dim=-1)


def embed_text(model: "Towers", texts: str | Text, template: str = "{}", *, batch_size: int = 256) -> Tensor:
    """Embed texts.

    Args:
        model: whose text tower is used.
        texts: one string, or several entries: each a string, or a list of labels, joined with ", ".
        template: `{}` stands for the entry.
        batch_size: texts encoded at once.

    Returns:
        float32 `[n, D]` on the model's device, each of norm 1.

    Raises:
        ValueError: an entry is no text (such as None or NaN) or too long, or the template lacks its `{}`; the
            message says which.
    """
    entries = _entries(texts)
    check_texts(entries)
    embeddings: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in _batches(entries, batch_size):
            embeddings.extend(model.encode_text(batch, template).float().unbind())
    return F.normalize(_stacked(embeddings), dim=-1)


@contextmanager
def evaluating(module: "nn.Module | Towers") -> Iterator[None]:
    """Put a module into eval mode, and each of its children back into its own mode at the end."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode  # not .train(mode), which would carry it on to the children


def _entries(texts: Any) -> list[Any]:
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"texts is {describe(texts)}; expected a string, or a list of strings or labels.")
    return [texts] if isinstance(texts, str) else list(texts)


def clips_of_batch(inputs: object) -> Sequence[AudioInput]:
    """Return the clips of an array or tensor `[B, T]` or `[B, C, T]`; a ValueError for anything else."""
    if not isinstance(inputs, np.ndarray | Tensor) or inputs.ndim not in (2, 3):
        given = list(inputs.shape) if isinstance(inputs, np.ndarray | Tensor) else describe(inputs)
        raise ValueError(
            f"batched is True and inputs is {given}; expected one array or tensor, [B, T] or [B, C, T]."
        )
    return list(inputs)


def _check_audio_arguments(sample_rate: Any, units: Any, batch_size: Any, window_seconds: Any) -> None:
    if not (is_count(batch_size) and is_positive(window_seconds)):
        raise ValueError(
            f"batch_size {batch_size!r} and window_seconds {window_seconds!r} must be positive numbers."
        )
    if units not in ("int16", "float"):
        raise ValueError(f'units is {units!r}; "int16" and "float" are allowed.')
    if sample_rate is not None and not (
        is_positive(sample_rate) and LOWEST_RATE <= sample_rate <= HIGHEST_RATE
    ):
        raise ValueError(
            f"sample_rate is {sample_rate!r}; a number of Hz, {LOWEST_RATE} to {HIGHEST_RATE}, is expected "
            "(44.1 kHz are 44100)."
        )


def _waveform(source: AudioInput, *, sample_rate: float | None, units: Units, name: str) -> Waveform:
    """Turn a file or an array into float32 `[C, T]` in 16-bit units at 44.1 kHz."""
    if isinstance(source, str | Path):
        return read_audio(source, SAMPLE_RATE)
    if hasattr(source, "read"):
        return read_audio(searchable(source, name), SAMPLE_RATE, name=name)
    if not isinstance(source, np.ndarray | Tensor):
        raise ValueError(f"{name} is {describe(source)}; {AUDIO_KINDS}.")
    if sample_rate is None:
        raise ValueError(f"{name} is an array; sample_rate must say its sample rate.")
    shape = list(source.shape)
    if source.ndim not in (1, 2) or 0 in shape or (source.ndim == 2 and shape[0] > MOST_CHANNELS):
        raise ValueError(
            f"{name} has shape {shape}; expected samples [T], or channels [C, T], time last, with at most "
            f"{MOST_CHANNELS} channels. {_SEVERAL_CLIPS}"
        )
    array = np.atleast_2d(_array(source, name))
    return resample(_scaled(array, units=units, name=name), sample_rate, SAMPLE_RATE)


def _array(source: np.ndarray[Any, Any] | Tensor, name: str) -> np.ndarray[Any, Any]:
    if isinstance(source, np.ndarray):
        return source
    if source.layout != torch.strided or source.is_meta or source.is_quantized:
        raise ValueError(f"{name} is a sparse, meta or quantized tensor; a dense one is expected.")
    tensor = source.detach().cpu()
    narrow = tensor.is_floating_point() and tensor.element_size() < 4  # numpy knows no bfloat16
    array: np.ndarray[Any, Any] = (tensor.float() if narrow else tensor).numpy()
    return array


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
        refuse_loud(peak, name, 'for 16-bit units say units="int16"')
        scaled: Waveform = array.astype(np.float32) * np.float32(INT16_SCALE)
        return scaled
    if 0.0 < peak <= 1.0:
        raise ValueError(
            f"{name} has a peak of {peak:.3g}: it looks like [-1, 1], but 16-bit units (-32768..32767) are "
            'expected. Say units="float" to have it scaled, or multiply it by 32768.'
        )
    refuse_loud(peak, name, "scale it to 16-bit units (-32768..32767)", full_scale=INT16_SCALE)
    return array.astype(np.float32)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if not is_count(size):
        raise ValueError(f"batch_size is {size!r}; it must be a positive integer.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _stacked(embeddings: list[Tensor]) -> Tensor:
    if not embeddings:
        raise ValueError("Nothing to embed: the list of inputs is empty.")
    return torch.stack(embeddings)
