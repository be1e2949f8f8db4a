"""Embeds files, arrays and texts outside training; the embeddings are L2-normalised.

Everything runs in eval mode without gradients, and the modules' modes are restored afterwards. audio_input.py
and clip/image_input.py decode the files.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio_input import INT16_SCALE, Waveform, read_audio, resample
from .clip.image_input import ImageInput, preprocess_image
from .clip.texts import Text, check_texts
from .inputs import AUDIO_KINDS, IMAGE_KINDS, MAX_CHANNELS, describe, seekable, several
from .interfaces import AudioTextModel, ThreeModalityModel
from .sounds.decoding import HIGHEST_RATE, LOWEST_RATE, refuse_loud

AudioInput: TypeAlias = str | Path | BinaryIO | np.ndarray[Any, Any] | Tensor
Units: TypeAlias = Literal["int16", "float"]
T = TypeVar("T")

SAMPLE_RATE = 44100
"""Sample rate of AudioCLIP's released audio tower, Hz."""

_PENDING_BATCHES = 4  # windows to hold, in batches, while no single length fills a batch
_EMPTY = "Nothing to embed: the list of inputs is empty."


def embed_audio(
    model: AudioTextModel,
    inputs: AudioInput | Iterable[AudioInput],
    *,
    sample_rate: float | None = None,
    units: Units = "int16",
    batched: bool = False,
    batch_size: int = 16,
    window_seconds: float | None = None,
) -> Tensor:
    """Embed audio files or arrays.

    A clip longer than a window is cut into evenly spaced windows that cover it, and their embeddings are
    averaged. Only windows of equal length share a batch, so nothing is padded and a clip's embedding does not
    depend on the other clips.

    Args:
        model: model with the audio tower.
        inputs: one input or several, each the path of an audio file, an audio file's content as a binary file
            such as `io.BytesIO`, or an array or tensor `[T]` or `[C, T]` with at most 8 channels, int16 or
            floating point of any width.
        sample_rate: sample rate of arrays, Hz; files state their own. Everything is resampled to the model's
            rate (44.1 kHz for AudioCLIP).
        units: units of floating-point arrays: "int16" for -32768..32767, "float" for -1..1.
        batched: True if `inputs` is one array or tensor of several clips, `[B, T]` or `[B, C, T]`.
        batch_size: number of windows to encode at once.
        window_seconds: length of a window, seconds; None for the model's own (5 for AudioCLIP).

    Returns:
        float32 `[n, D]` on the model's device, each row of norm 1.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An argument, a file or an array cannot be used; the message says which and why.
    """
    window_seconds = model.window_seconds if window_seconds is None else window_seconds
    if batch_size < 1 or not 0 < window_seconds < math.inf:
        raise ValueError(
            f"batch_size is {batch_size} and window_seconds is {window_seconds}; both must be positive."
        )
    if units not in ("int16", "float"):
        raise ValueError(f'units is {units!r}; "int16" and "float" are allowed.')
    if sample_rate is not None and not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise ValueError(
            f"sample_rate is {sample_rate}; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz (44100 for 44.1 kHz)."
        )
    sources = clips_of_batch(inputs) if batched else several(inputs, AUDIO_KINDS)

    def encode(audio: Tensor) -> Tensor:
        return model.encode_audio(audio.to(model.device), check_units=False)  # quiet clips are no mistake

    model_rate = model.sample_rate or SAMPLE_RATE
    window = max(1, round(window_seconds * model_rate))
    embedding = WindowedEmbedding(encode, window=window, batch_size=batch_size)
    with evaluating(model), torch.no_grad():
        for clip, source in enumerate(sources):
            waveform = _waveform(
                source, model_rate, sample_rate=sample_rate, units=units, name=f"Audio input {clip}"
            )
            embedding.add(torch.from_numpy(waveform))
        return embedding.embeddings()


def embed_image(
    model: ThreeModalityModel, inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 64
) -> Tensor:
    """Preprocess and embed images.

    Args:
        model: model with the image tower.
        inputs: one input or several, each the path of an image file, an image file's content as a binary file
            such as `io.BytesIO`, a PIL image, a uint8 array `[H, W]` or `[H, W, 3]`, or a tensor `[H, W]`,
            `[1, H, W]` or `[3, H, W]`, uint8 or floating point in 0..1. A four-dimensional array or tensor
            contains several images.
        batch_size: number of images to encode at once.

    Returns:
        float32 `[n, D]` on the model's device, each row of norm 1.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file, an image or an array cannot be used; the message says which and why.
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


def embed_text(
    model: AudioTextModel, texts: str | Text, template: str = "{}", *, batch_size: int = 256
) -> Tensor:
    """Embed texts.

    Args:
        model: model with the text tower.
        texts: a string, or a list of entries, each a string or a list of labels to join with ", ".
        template: prompt template, in which each entry replaces `{}`.
        batch_size: number of texts to encode at once.

    Returns:
        float32 `[n, D]` on the model's device, each row of norm 1.

    Raises:
        ValueError: An entry is too long or not a text (None or NaN, for example), or the template lacks `{}`;
            the message says which.
    """
    given: Any = texts
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ValueError(
            f"texts is {describe(given)}; expected a string, or a list of strings or lists of labels."
        )
    entries = [given] if isinstance(given, str) else list(given)
    check_texts(entries)
    embeddings: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in _batches(entries, batch_size):
            embeddings.extend(model.encode_text(batch, template).float().unbind())
    return F.normalize(_stacked(embeddings), dim=-1)


class WindowedEmbedding:
    """Embeds clips of any length; a clip's embedding is the normalised average over its windows.

    A clip longer than a window is cut into the fewest windows that cover it, see `window_starts`. Only
    windows of the same shape share a batch, so nothing is padded.

        |------------- T -------------|
        |-- window --|
                |-- window --|
                         |-- window --|

    Args:
        encode: function from windows `[n, C, T]` to features `[n, D]`.
        window: length of a window, samples.
        batch_size: maximum number of windows to encode at once.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, window: int, batch_size: int) -> None:
        self._encode = encode
        self._window = window
        self._batch_size = batch_size
        self._totals: list[Tensor] = []  # sum over the windows of each clip
        self._pending: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)

    def add(self, waveform: Tensor) -> None:
        """Add the next clip, `[C, T]`."""
        clip = len(self._totals)
        self._totals.append(torch.zeros(()))
        for start in window_starts(waveform.shape[-1], self._window):
            samples = waveform[..., start : start + self._window]
            group = self._pending[tuple(samples.shape)]
            group.append((clip, samples))
            if len(group) == self._batch_size:
                self._encode_pending(tuple(samples.shape))
            elif sum(map(len, self._pending.values())) > _PENDING_BATCHES * self._batch_size:
                self._encode_pending(max(self._pending, key=lambda shape: len(self._pending[shape])))

    def embeddings(self) -> Tensor:
        """Return the embeddings of all clips, float32 `[clips, D]`, each row of norm 1.

        Raises:
            ValueError: No clip was added.
        """
        if not self._totals:
            raise ValueError(_EMPTY)
        for shape in list(self._pending):
            self._encode_pending(shape)
        return F.normalize(torch.stack(self._totals), dim=-1)

    def _encode_pending(self, shape: tuple[int, ...]) -> None:
        group = self._pending.pop(shape)
        features = self._encode(torch.stack([samples for _, samples in group]))
        for (clip, _), feature in zip(group, F.normalize(features.float(), dim=-1), strict=True):
            self._totals[clip] = feature + self._totals[clip].to(feature.device)


def window_starts(samples: int, window: int) -> list[int]:
    """Return the start of each of a clip's windows, in samples: the fewest that cover it, evenly spaced.

    If the clip is longer than a whole number of windows by at most 1 % of a window, the excess is cut
    off, half at each end. Codecs round lengths up to whole blocks, and a few extra samples are not worth
    another window.

    Example:
        >>> window_starts(12, window=5)
        [0, 4, 7]
        >>> window_starts(5, window=5)
        [0]
    """
    count = max(1, math.ceil((samples - window // 100) / window))
    covered = min(samples, count * window)
    left = (samples - covered) // 2
    steps = max(1, count - 1)
    return [left + round(position * max(0, covered - window) / steps) for position in range(count)]


@contextmanager
def evaluating(module: nn.Module | AudioTextModel) -> Iterator[None]:
    """Put a module into eval mode, and restore its mode and its children's afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode  # not .train(mode), which changes the children's modes


def clips_of_batch(inputs: object) -> Sequence[AudioInput]:
    """Split an array or tensor `[B, T]` or `[B, C, T]` into clips; raise a ValueError for anything else."""
    if not isinstance(inputs, np.ndarray | Tensor) or inputs.ndim not in (2, 3):
        given = list(inputs.shape) if isinstance(inputs, np.ndarray | Tensor) else describe(inputs)
        raise ValueError(
            f"batched is True, but inputs is {given}; expected one array or tensor, [B, T] or [B, C, T]."
        )
    return list(inputs)


def _waveform(
    source: AudioInput, target_rate: int, *, sample_rate: float | None, units: Units, name: str
) -> Waveform:
    """Convert a file or an array to float32 `[C, T]` in 16-bit units at the target rate."""
    if isinstance(source, str | Path):
        return read_audio(source, target_rate)
    if hasattr(source, "read"):
        return read_audio(seekable(source, name), target_rate, name=name)
    if not isinstance(source, np.ndarray | Tensor):
        raise ValueError(f"{name} is {describe(source)}; {AUDIO_KINDS}.")
    if sample_rate is None:
        raise ValueError(f"{name} is an array; pass its sample rate as sample_rate, in Hz.")
    shape = list(source.shape)
    if source.ndim not in (1, 2) or 0 in shape or (source.ndim == 2 and shape[0] > MAX_CHANNELS):
        raise ValueError(
            f"{name} has shape {shape}; expected samples [T], or channels [C, T], time last, with at most "
            f"{MAX_CHANNELS} channels. Several clips, [B, T] or [B, C, T], are passed with batched=True or "
            "as a list of clips."
        )
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        narrow = tensor.is_floating_point() and tensor.element_size() < 4  # numpy lacks bfloat16
        source = (tensor.float() if narrow else tensor).numpy()
    return resample(_scaled(np.atleast_2d(source), units=units, name=name), sample_rate, target_rate)


def _scaled(array: np.ndarray[Any, Any], *, units: Units, name: str) -> Waveform:
    """Check the dtype and range of an array, and convert it to float32 in 16-bit units."""
    if array.dtype == np.int16:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has dtype {array.dtype}; expected int16 or floating point.")
    peak = float(np.abs(array).max())
    if not math.isfinite(peak):
        raise ValueError(f"{name} has non-finite samples.")
    if units == "float":
        refuse_loud(peak, name, 'for 16-bit units pass units="int16"')
        scaled: Waveform = array.astype(np.float32) * np.float32(INT16_SCALE)
        return scaled
    if 0.0 < peak <= 1.0:
        raise ValueError(
            f"{name} has a peak of {peak:.3g}: it looks like [-1, 1], but 16-bit units (-32768..32767) are "
            'expected. Pass units="float" to have it scaled, or multiply it by 32768.'
        )
    refuse_loud(peak, name, "scale it to 16-bit units (-32768..32767)", full_scale=INT16_SCALE)
    return array.astype(np.float32)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if size < 1:
        raise ValueError(f"batch_size is {size}; it must be positive.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _stacked(embeddings: list[Tensor]) -> Tensor:
    if not embeddings:
        raise ValueError(_EMPTY)
    return torch.stack(embeddings)
