"""The interfaces that tasks, evaluations and embedding functions require of a model."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .clip.image_input import ImagePreprocessing
from .clip.texts import Text
from .losses import Logits

# ruff: noqa: D102 (classes and attributes are described with the class)


@runtime_checkable
class AudioTextModel(Protocol):
    """A model that embeds audio and texts in one space: `AudioCLIP`, or another model in its place.

    This is what zero-shot classification, retrieval and probes need. Training needs an `AudioCLIP`.

    Attributes:
        multilabel: whether samples have several labels, so that tasks score them independently.
        context_length: maximum number of tokens per text, including start and end.
        sample_rate: rate of the audio that the network expects, Hz; None if the network takes any rate, and
            expects that of its training data.
        window_seconds: length of the windows into which `embed_audio` cuts longer clips by default, seconds.
        device: device of the model.
        text_is_frozen: True if no parameter of `text_parameters` is trainable.
    """

    multilabel: bool
    context_length: int

    @property
    def sample_rate(self) -> int | None: ...

    @property
    def window_seconds(self) -> float: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def text_is_frozen(self) -> bool: ...

    def text_parameters(self) -> list[nn.Parameter]:
        """List the parameters on which `encode_text` depends."""

    def encode_audio(self, audio: Tensor, *, check_units: bool = True) -> Tensor:
        """Embed clips `[B, C, T]`, 16-bit units, at `sample_rate`; return `[B, D]`, not normalised.

        `check_units` says whether to refuse, in eval mode, audio that looks like audio in [-1, 1].
        """

    def encode_text(self, text: Text, base_str: str = "{}") -> Tensor:
        """Embed texts, which replace `{}` in the template `base_str`; return `[B, D]`, not normalised."""

    def tokenize(self, text: Text, base_str: str = "{}") -> Tensor:
        """Tokenize texts, int64 `[B, L]`; raise `TextTooLong` for more than `context_length` tokens."""

    def logits(
        self,
        audio_features: Tensor | None = None,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Logits:
        """Compute each pair's scaled similarities from normalised features `[B, D]`."""

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...


@runtime_checkable
class ThreeModalityModel(AudioTextModel, Protocol):
    """An `AudioTextModel` that embeds images, too.

    Attributes:
        image_preprocessing: preprocessing of images for `encode_image`.
    """

    image_preprocessing: ImagePreprocessing

    def encode_image(self, image: Tensor, /) -> Tensor:
        """Embed preprocessed images `[B, 3, H, W]`; return `[B, D]`, not normalised."""
