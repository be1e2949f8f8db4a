"""CLAP models of the transformers library, in the place of AudioCLIP for evaluation.

LAION-CLAP: Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation" (ICASSP 2023, arXiv 2211.06687).
"""

# ruff: noqa: PLC0415 (transformers is optional, and takes seconds to import)

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from . import embedding, zero_shot
from .audio_input import INT16_SCALE
from .clip.texts import Text, TextTooLong, fill_template
from .embedding import WindowedEmbedding
from .inputs import refuse_other_shapes, refuse_unit_range
from .losses import Logits
from .own_name import how_to_install
from .weights.hub_folders import HubFolder, find_hub_folder
from .weights.releases import WeightsError
from .weights.training_data import seen_in_training

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor, ClapModel, ClapProcessor, PreTrainedTokenizerBase

Source: TypeAlias = str | Path | Literal[False]
"""Weights of a `Clap`; see its argument `pretrained`."""


class Clap(nn.Module):
    """A CLAP model that is only evaluated: by the protocols of AudioCLIP, with another `Model` section.

        audio [B, C, T] -> mean of channels -> log-mel spectrogram -> HTS-AT -> [B, D]
        text (B strings) -> RoBERTa -> [B, D]

    Preparation is the checkpoint's own, from its feature extractor and tokenizer: the sample rate (48 kHz),
    the mel filters, and the padding of short clips, usually by repetition up to 10 s. Two things
    differ, because an extractor decides them at random: a clip longer than 10 s is cut into evenly spaced
    windows, whose embeddings are averaged, instead of being cropped at a random position; and no clip is
    marked as longer than the input of a checkpoint with feature fusion.

    All parameters are frozen.

    Args:
        pretrained: weights: `owner/name` of a CLAP model on the Hugging Face Hub, such as
            "laion/clap-htsat-unfused", or the path of a folder with the files of such a model. False: random
            weights.
        config: arguments of transformers' `ClapConfig`, for random weights only; None for its defaults.
            Texts are then read byte by byte.
        multilabel: whether samples have several labels. Tasks read this to choose between softmax and
            independent scores; it does not change the network.

    Attributes:
        network: transformers' `ClapModel`.
        context_length: maximum number of tokens per text, including start and end.
        weights_files: files that contained the weights; empty if the weights are random.
        weights_names: name of the weights in results, by file.

    Raises:
        ValueError: `config` is given although the weights are not random, or contradicts itself.
        WeightsError: The package transformers is missing, or the weights are missing or do not fit.
    """

    affects: ClassVar[dict[str, str]] = {"pretrained": "run"}
    """Arguments that only state where weights come from; runs that differ only in these may be averaged."""

    def __init__(
        self,
        pretrained: Source = "laion/clap-htsat-unfused",
        *,
        config: Mapping[str, Any] | None = None,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        _require_transformers()
        folder = None if pretrained is False else find_hub_folder(pretrained, model_type="clap")
        if folder is None:
            self.network = _random_network(config or {})
            self._extractor, self._tokenizer = _plain_preparation(self.network)
        else:
            if config is not None:
                raise ValueError("config is given, but pretrained is not false; the weights have a config.")
            self.network, processor = _load(folder)
            self._extractor, self._tokenizer = processor.feature_extractor, processor.tokenizer
        self.weights_files = folder.files if folder else ()
        self._weights_name = folder.name if folder else ""
        self.weights_names = dict.fromkeys(self.weights_files, self._weights_name)
        self.requires_grad_(False)
        self.multilabel = multilabel
        self.context_length = min(_positions(self.network), self._tokenizer.model_max_length)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: torch.device | str | None = None, **constructor_args: Any
    ) -> "Clap":
        """Load a model for inference, in eval mode.

        Args:
            source: value of the argument `pretrained`.
            device: device of the model; None for the CPU.
            constructor_args: further constructor arguments.

        Raises:
            WeightsError: The weights are missing or do not fit.
        """
        return cls(source, **constructor_args).to(device).eval()

    def seen_in_training(self, dataset: str) -> str:
        """Say what is known of a data set, by its name in results, in the training data of the weights."""
        return seen_in_training(self._weights_name, dataset) if self._weights_name else ""

    embed_audio = embedding.embed_audio
    embed_text = embedding.embed_text
    classify = zero_shot.classify

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio that `encode_audio` expects, Hz."""
        return int(self._extractor.sampling_rate)

    @property
    def window_seconds(self) -> float:
        """Length of the longest clip that the network sees as a whole, seconds."""
        return float(self._extractor.max_length_s)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.network.logit_scale_a.device
        return device

    @property
    def text_is_frozen(self) -> bool:
        """True if no parameter of the text tower is trainable."""
        return not any(parameter.requires_grad for parameter in self.text_parameters())

    def text_parameters(self) -> list[nn.Parameter]:
        """List the text tower's parameters."""
        return [*self.network.text_model.parameters(), *self.network.text_projection.parameters()]

    def encode_audio(self, audio: Tensor, *, check_units: bool = True) -> Tensor:
        """Embed audio clips.

        Args:
            audio: `[B, C, T]`, integer or floating point, 16-bit units (-32768..32767), at `sample_rate`.
            check_units: whether to refuse audio with a peak of at most 1, which is probably in [-1, 1].

        Returns:
            `[B, D]` features. They are not normalised, except for clips longer than `window_seconds`, whose
            features are the normalised average over their windows.

        Raises:
            ValueError: `audio` is not `[B, C, T]`, has no samples, or looks like audio in [-1, 1].
        """
        refuse_other_shapes(audio)
        if check_units:
            refuse_unit_range(audio)
        mono = audio.double().mean(dim=1) / INT16_SCALE  # [B, T]
        window = int(self._extractor.nb_max_samples)
        if mono.shape[1] <= window:
            return self._encode(mono)
        windowed = WindowedEmbedding(
            lambda clips: self._encode(clips[:, 0]), window=window, batch_size=len(mono)
        )
        for clip in mono:
            windowed.add(clip[None])
        return windowed.embeddings()

    def encode_text(self, text: Text, base_str: str = "{}") -> Tensor:
        """Embed texts.

        Args:
            text: B strings or lists of labels; the labels in a list are joined with ", ".
            base_str: prompt template, in which each text replaces `{}`.

        Returns:
            `[B, D]` features, not normalised.

        Raises:
            ValueError: A text is too long, or the template lacks `{}`.
        """
        tokens = self.tokenize(text, base_str).to(self.device)
        mask = (tokens != self._tokenizer.pad_token_id).long()
        pooled = self.network.text_model(input_ids=tokens, attention_mask=mask).pooler_output
        features: Tensor = self.network.text_projection(pooled)
        return features

    def tokenize(self, text: Text, base_str: str = "{}") -> Tensor:
        """Tokenize texts; return int64 `[B, L]`, padded to the longest.

        Raises:
            TextTooLong: A text has more than `context_length` tokens.
            ValueError: An entry is not a text, the template lacks `{}`, or `text` is a bare string.
        """
        entries = fill_template(text, base_str)
        if not entries:
            return torch.empty(0, self.context_length, dtype=torch.int64)
        rows = self._tokenizer(entries, verbose=False)["input_ids"]
        for entry, row in zip(entries, rows, strict=True):
            if len(row) > self.context_length:
                raise TextTooLong(entry, len(row), context_length=self.context_length)
        padding = self._tokenizer.pad_token_id
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)

    def logits(
        self,
        audio_features: Tensor | None = None,
        image_features: Tensor | None = None,  # noqa: ARG002
        text_features: Tensor | None = None,
    ) -> Logits:
        """Compute the scaled similarities of audio and text from normalised features `[B, D]`.

        The scale is the checkpoint's own, `exp(logit_scale_a)`. There are no images.
        """
        if audio_features is None or text_features is None:
            return Logits(None, None, None)
        with torch.autocast(audio_features.device.type, enabled=False):
            similarities = self.network.logit_scale_a.exp() * audio_features @ text_features.T
        return Logits(audio_image=None, audio_text=similarities, image_text=None)

    def _encode(self, mono: Tensor) -> Tensor:
        """Embed clips `[B, T]` in [-1, 1], not longer than the network's input."""
        prepared = self._extractor(
            list(mono.cpu().numpy()), sampling_rate=self.sample_rate, return_tensors="pt"
        )
        image = prepared["input_features"].to(self.network.logit_scale_a)  # [B, 1 or 4, N, K]
        is_longer = torch.zeros(len(image), 1, dtype=torch.bool, device=self.device)
        pooled = self.network.audio_model(input_features=image, is_longer=is_longer).pooler_output
        features: Tensor = self.network.audio_projection(pooled)
        return features


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise WeightsError(
            f"CLAP models need the package transformers, which cannot be imported ({error}): "
            f"{how_to_install('peers')}"
        ) from None


def _load(folder: HubFolder) -> "tuple[ClapModel, ClapProcessor]":
    """Load the network and its preparation; raise WeightsError if a parameter has no weights."""
    from transformers import ClapModel, ClapProcessor
    from transformers.utils import logging

    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network, about = ClapModel.from_pretrained(
            folder.path, output_loading_info=True, local_files_only=True, dtype=torch.float32
        )
        processor = ClapProcessor.from_pretrained(folder.path, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder.name} cannot be loaded from {folder.path}: {error}") from error
    finally:
        if shows_progress:
            logging.enable_progress_bar()
    missing = sorted(about["missing_keys"] & dict(network.named_parameters()).keys())
    if missing:
        raise WeightsError(
            f"{folder.files[0]}: {len(missing)} of the model's parameters are missing, such as {missing[0]}."
        )
    return network, processor


def _random_network(config: Mapping[str, Any]) -> "ClapModel":
    from transformers import ClapConfig, ClapModel

    try:
        return ClapModel(ClapConfig(**config))
    except Exception as error:  # transformers raises many kinds of errors
        raise ValueError(f"config does not describe a CLAP model: {error}") from error


def _plain_preparation(network: "ClapModel") -> "tuple[ClapFeatureExtractor, PreTrainedTokenizerBase]":
    """Prepare audio as for the published models without fusion, and texts byte by byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import ClapFeatureExtractor, RobertaTokenizer

    config = network.config
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    if config.text_config.vocab_size < len(letters):
        raise ValueError(
            f"config.text_config.vocab_size is {config.text_config.vocab_size}; reading texts byte by byte "
            f"needs at least {len(letters)}."
        )
    tokenizer = RobertaTokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    extractor = ClapFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins,
        truncation="fusion" if config.audio_config.enable_fusion else "rand_trunc",
    )
    return extractor, tokenizer


def _positions(network: "ClapModel") -> int:
    """Return the number of tokens that have a position; RoBERTa numbers them from the padding token's on."""
    config = network.config.text_config
    return int(config.max_position_embeddings) - int(config.pad_token_id) - 1
