"""AudioCLIP: audio, images and text in one embedding space (Guzhov et al., arXiv 2106.13043)."""

import inspect
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from . import embedding, zero_shot
from .clip.layer_order import order_of_layers
from .clip.texts import Text, tokenize
from .clip.towers import (
    build_clip,
    build_named_clip,
    encode_tokens,
    recompute_transformers,
)
from .esresnet.esresnext import ARCHITECTURE, AudioFeatures, ESResNeXt
from .esresnet.masks import SpectrogramMasks
from .esresnet.spectrogram import Window
from .losses import Features, Logits, Reduction, pairwise_contrastive_loss, scaled_similarity
from .matches import Positives
from .recompute import recompute
from .weights.built_from import NOT_DESCRIBED, arguments_for
from .weights.hub import HubLayout, is_hub_layout
from .weights.initial import Pretrained, find_sources, load_sources
from .weights.loading import MisfitError
from .weights.releases import find_weights, released_hashes


class AudioCLIP(nn.Module, HubLayout):
    """Three towers that share an embedding space, with a learned similarity scale per pair of modalities.

        audio [B, C, T]     -> ESResNeXt-fbsp     -> [B, D]     audio-image: s = logit_scale_ai
        image [B, 3, H, W]  -> CLIP's image tower -> [B, D]     audio-text:  s = logit_scale_at
        text  (B strings)   -> CLIP's text tower  -> [B, D]     image-text:  s = logit_scale

        logits of a pair, [B, B] = clamp(exp(s), 1, 100) * cosine similarities (+ bias)

    The image and text towers come from OpenAI's CLIP (RN50 with QuickGELU by default, arXiv 2103.00020) or
    any other open_clip model. State-dict names are the same as in the released checkpoints and open_clip.
    Like any module, a new model is in train mode; `from_pretrained` returns a model in eval mode.

    Args:
        embed_dim: dimension D of the embedding space.
        image_resolution: height and width of images, pixels.
        vision_layers: number of blocks in each of a ResNet's four stages, or number of layers in a vision
            transformer.
        vision_width: channels in a ResNet's first stage, or width of a vision transformer.
        vision_patch_size: patch size of a vision transformer, pixels; None for a ResNet.
        context_length: number of tokens per text, including start and end.
        vocab_size: size of the vocabulary; CLIP's tokenizer has 49408 tokens.
        transformer_width: width of the text tower.
        transformer_heads: number of attention heads in the text tower.
        transformer_layers: number of layers in the text tower.
        n_fft, hop_length, win_length, window, normalized, onesided, spec_height, spec_width,
        apply_attention: arguments of the audio tower, see `ESResNeXt`.
        multilabel: whether samples have several labels. Tasks read this to choose between softmax and
            independent scores; it does not change the network.
        pretrained: initial weights. False: random weights. True: the released CLIP.pt and ESRNXFBSP.pt. The
            name of released weights or the path of a file: weights for all towers. The path of a folder of
            runs: the best checkpoint of the newest finished run. A mapping: separate weights for "clip"
            (image and text towers; a path, the name of released weights or an open_clip tag) and "audio" (a
            path, such a name or "imagenet"); a part without an entry stays random.
        clip: name of an open_clip model, such as "ViT-B-32-quickgelu", to use in place of the arguments
            `embed_dim` to `transformer_layers`; None for those arguments.
        spectrum: "fbsp" or "stft", see `ESResNeXt`.
        logit_bias: initial value of the learned biases of the similarities, `logit_bias_ai`, `logit_bias_at`
            and `logit_bias`, which the sigmoid loss needs: -10 in SigLIP (arXiv 2303.15343). Weights without
            biases leave them at this value. None for a model without biases.
        assets: folder of the released weights; None for `assets/` in a clone of the repository,
            and a folder in the cache of an installed package.

    Attributes:
        image_preprocessing: preprocessing of images for the image tower.
        weights_files: files that contained the initial weights; empty if the weights are random.
        has_logit_biases: whether similarities have learned biases.
        weights_sha256: expected SHA-256 of each weights file whose name and size match a released file.

    Raises:
        ValueError: The arguments contradict each other.
        WeightsError: The weights are missing or do not fit.

    Example:
        A small model with random weights.

        >>> import numpy as np
        >>> model = AudioCLIP(
        ...     embed_dim=128, image_resolution=64, vision_layers=[1, 1, 1, 1], vision_width=16,
        ...     transformer_width=64, transformer_heads=2, transformer_layers=1, pretrained=False,
        ... )
        >>> audio = model.embed_audio(np.zeros(44100, np.int16), sample_rate=44100)
        >>> texts = model.embed_text(["dog", "rain"], template="{}")
        >>> (audio @ texts.T).shape
        torch.Size([1, 2])
    """

    visual: nn.Module
    transformer: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter
    logit_bias_ai: nn.Parameter
    logit_bias_at: nn.Parameter

    affects: ClassVar[dict[str, str]] = {"pretrained": "run", "assets": "run"}
    """Arguments that only state where weights come from; runs that differ only in these may be averaged."""

    sample_rate: ClassVar[int | None] = None
    """None: the network does not know the rate of its training data (44.1 kHz for the released weights)."""
    window_seconds: ClassVar[float] = 5.0
    """Length of the windows of longer clips, seconds: that of the clips in ESC-50."""

    def __init__(
        self,
        embed_dim: int = 1024,
        image_resolution: int = 224,
        vision_layers: Sequence[int] | int = (3, 4, 6, 3),
        vision_width: int = 64,
        vision_patch_size: int | None = None,
        context_length: int = 77,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_heads: int = 8,
        transformer_layers: int = 12,
        n_fft: int = 2048,
        hop_length: int | None = 561,
        win_length: int | None = 1654,
        window: Window | None = "blackmanharris",
        normalized: bool = True,
        onesided: bool = True,
        spec_height: int = -1,
        spec_width: int = -1,
        apply_attention: bool = True,
        multilabel: bool = True,
        pretrained: Pretrained = True,
        *,
        clip: str | None = None,
        spectrum: Literal["fbsp", "stft"] = "fbsp",
        logit_bias: float | None = None,
        assets: str | Path | None = None,
    ) -> None:
        given: dict[str, Any] = dict(locals())
        super().__init__()
        clip_args = {name: given[name] for name in inspect.signature(build_clip).parameters}
        audio_args = {name: given[name] for name in ARCHITECTURE}
        if clip is not None:
            _refuse_both(clip, clip_args)
        sources = find_sources(pretrained, clip=clip, assets=assets)
        self.weights_files = sources.files
        self.weights_sha256 = released_hashes(sources.files)
        self.multilabel = multilabel
        self.clip = clip
        towers = build_clip(**clip_args) if clip is None else build_named_clip(clip)
        self.context_length = towers.context_length
        self.image_preprocessing = towers.preprocessing
        self._adopt_clip(towers.network)
        self.audio = ESResNeXt(**audio_args, num_classes=towers.embed_dim)
        self.logit_scale_ai = nn.Parameter(torch.tensor(math.log(100.0)))
        self.logit_scale_at = nn.Parameter(torch.tensor(math.log(100.0)))
        self.has_logit_biases = logit_bias is not None
        if logit_bias is not None:
            for name in ("logit_bias_ai", "logit_bias_at", "logit_bias"):
                self.register_parameter(name, nn.Parameter(torch.tensor(float(logit_bias))))
        load_sources(self, self.audio, sources, clip_args={**clip_args, "clip": clip}, audio_args=audio_args)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path, *, device: torch.device | str | None = None, **constructor_args: Any
    ) -> "AudioCLIP":
        """Load a trained model for inference, in eval mode.

        A trained model is built with the arguments from its training, which are stored in the checkpoint or
        the `protocol.json` alongside it. For a folder of runs, the best checkpoint of the newest finished run
        is loaded, and its path is printed to stderr.

        Args:
            source: name of released weights, such as "AudioCLIP-Full-Training"; path of a weights file;
                folder of a run or of all runs of a protocol, such as "results/Quickstart"; folder that
                `save_pretrained` wrote; or `owner/name` on the Hugging Face Hub.
            device: device of the model; None for the CPU.
            constructor_args: constructor arguments, except `pretrained`, that override those in the
                checkpoint or config.

        Raises:
            WeightsError: The weights do not exist or belong to another model; the message says which call to
                use.
        """
        if is_hub_layout(source):
            model = super().from_pretrained(source, **constructor_args)
        else:
            instead = f"Random weights need no file: {cls.__name__}(pretrained=False).eval()."
            file = find_weights(source, assets=constructor_args.get("assets"), instead=instead)
            if Path(source).expanduser().is_dir():
                print(f"{source}: {file}", file=sys.stderr)
            known = arguments_for(cls, file)
            try:
                model = cls(**{**known, **constructor_args, "pretrained": file})
            except MisfitError as error:
                if known or not error.gaps.misshapen:
                    raise
                raise MisfitError(f"{error}\n{NOT_DESCRIBED}", error.gaps) from None
        return model.to(device).eval()

    def _adopt_clip(self, clip: nn.Module) -> None:
        """Register an open_clip model's children and parameters under their own names."""
        for name, child in clip.named_children():  # visual; text, or transformer, token_embedding, ln_final
            self.add_module(name, child)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)  # positional_embedding, text_projection, logit_scale
        if not hasattr(self, "text"):
            self.register_buffer("attn_mask", cast(Any, clip).attn_mask, persistent=False)
            self.text_pool_type, self.text_eos_id = clip.text_pool_type, clip.text_eos_id

    embed_audio = embedding.embed_audio
    embed_image = embedding.embed_image
    embed_text = embedding.embed_text
    classify = zero_shot.classify

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.logit_scale_at.device

    @property
    def text_is_frozen(self) -> bool:
        """True if the text tower has no trainable parameter, so that a text always has the same features."""
        return not any(parameter.requires_grad for parameter in self.text_parameters())

    def text_parameters(self) -> list[nn.Parameter]:
        """List the text tower's parameters, whose names vary between CLIP models."""
        return [self.get_parameter(name) for name in self._text_parameter_names()]

    def layer_order(self) -> list[list[list[str]]]:
        """Return the layers of each tower from the input to the output, for layer-wise learning rates.

        Layers are lists of names of modules and parameters. The last tower is a single layer, which has the
        similarity scales. An image or text tower without blocks of known names is left out.
        """
        visual = [name for name, _ in self.visual.named_parameters(prefix="visual")]
        towers = [("audio.", layers) for layers in self.audio.layer_order()]
        for prefix, names in (
            ("visual.", visual),
            ("text." if hasattr(self, "text") else "", self._text_parameter_names()),
        ):
            towers.append((prefix, order_of_layers(name.removeprefix(prefix) for name in names)))
        scales = [name for name, _ in self.named_parameters(recurse=False) if name.startswith("logit_")]
        towers.append(("", [scales]))
        return [
            [[prefix + name for name in layer] for layer in layers] for prefix, layers in towers if layers
        ]

    def _text_parameter_names(self) -> list[str]:
        others = ("audio.", "visual.", "logit_")
        return [name for name, _ in self.named_parameters() if not name.startswith(others)]

    def encode_audio(self, audio: Tensor, *, check_units: bool = True) -> Tensor:
        """Embed audio clips.

        Args:
            audio: `[B, C, T]`, integer or floating point, 16-bit units (-32768..32767), 44.1 kHz.
            check_units: whether to refuse, in eval mode, audio with a peak of at most 1, which is probably in
                [-1, 1].

        Returns:
            `[B, D]` features, not normalised.

        Raises:
            ValueError: `audio` is not `[B, C, T]`, has no samples or, in eval mode, looks like audio in
                [-1, 1].
        """
        features: Tensor = self.audio(audio, check_units=check_units)
        return features

    def encode_audio_with_penalty(
        self, audio: Tensor, *, masks: SpectrogramMasks | None = None
    ) -> AudioFeatures:
        """Embed audio clips as `encode_audio` does, and compute the wavelet-norm penalty for the loss.

        Args:
            audio: audio as for `encode_audio`.
            masks: masked parts of the spectrograms; None for no masks.
        """
        return self.audio.forward_with_penalty(audio, masks=masks)

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed images.

        Args:
            image: `[B, 3, H, W]`, normalised, from `clip.image_input.preprocess_image` with this model's
                `image_preprocessing`.

        Returns:
            `[B, D]` features, not normalised.
        """
        features: Tensor = self.visual(image.to(next(self.visual.parameters()).dtype))
        return features

    def encode_text(
        self, text: Text, base_str: str = "{}", batch_indices: Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Embed texts.

        Args:
            text: B strings or lists of labels; the labels in a list are joined with ", ".
            base_str: prompt template, in which each text replaces `{}`.
            batch_indices: indices of the entries to encode, in this order; None for all entries.

        Returns:
            `[B, D]` features, not normalised.

        Raises:
            ValueError: A text is too long, or the template lacks `{}`.
        """
        if batch_indices is not None:
            text = [text[int(index)] for index in batch_indices]
        tokens = self.tokenize(text, base_str).to(self.device)  # [B, L]
        with record_function("step/text tower"):
            return encode_tokens(self, tokens)

    def compile_towers(self) -> None:
        """Compile the audio and image towers at their first call, for fixed shapes.

        State-dict names do not change. The text tower is not compiled: while frozen, it encodes each text
        only once per run.
        """
        self.audio.compile_towers()
        self.visual.compile(dynamic=False)

    def recompute_activations(self) -> None:
        """Recompute activations in the backward pass from block inputs; state-dict names do not change."""
        self.audio.recompute_activations()
        recompute(self.visual)
        recompute_transformers(self)

    def tokenize(self, text: Text, base_str: str = "{}") -> Tensor:
        """Tokenize texts for this model, see `clip.texts.tokenize`; return int64 `[B, context_length]`."""
        return tokenize(text, base_str, context_length=self.context_length, clip=self.clip)

    def forward(
        self,
        audio: Tensor | None = None,
        image: Tensor | None = None,
        text: Text | None = None,
        batch_indices: Sequence[int] | Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> tuple[tuple[Features, Logits], Tensor | None]:
        """Embed the given modalities, compare every pair, and compute the published loss.

        Args:
            audio: audio as for `encode_audio`; None if absent.
            image: images as for `encode_image`; None if absent.
            text: texts as for `encode_text`; None if absent.
            batch_indices: indices of the entries in `text` that belong to this batch; None for all entries.
            sample_weight: weights `[B]` of the samples, see `losses.sample_weights`; None for equal weights.

        Returns:
            `((audio, image, text features), (audio-image, audio-text, image-text logits)), loss`. Features
            and logits of absent modalities are None; so is the loss if there is no pair of modalities.

        Raises:
            ValueError: An encoder refuses its input, or the modalities have different numbers of samples.
        """
        audio_features = image_features = text_features = penalty = None
        if audio is not None:
            audio_features, penalty = self.encode_audio_with_penalty(audio)
            audio_features = F.normalize(audio_features, dim=-1)
        if image is not None:
            image_features = F.normalize(self.encode_image(image), dim=-1)
        if text is not None:
            text_features = F.normalize(self.encode_text(text, batch_indices=batch_indices), dim=-1)
        features = Features(audio_features, image_features, text_features)
        logits = self.logits(*features)
        return (features, logits), self.loss(logits, penalty=penalty, sample_weight=sample_weight)

    def logits(
        self,
        audio_features: Tensor | None = None,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Logits:
        """Compute each pair's scaled similarities from the modalities' normalised features `[B, D]`."""
        audio_image = audio_text = image_text = None
        if self.has_logit_biases:
            audio_image, audio_text, image_text = self.logit_bias_ai, self.logit_bias_at, self.logit_bias
        return Logits(
            audio_image=scaled_similarity(self.logit_scale_ai, audio_features, image_features, audio_image),
            audio_text=scaled_similarity(self.logit_scale_at, audio_features, text_features, audio_text),
            image_text=scaled_similarity(self.logit_scale, image_features, text_features, image_text),
        )

    def loss(
        self,
        logits: Logits,
        *,
        penalty: Tensor | None = None,
        sample_weight: Tensor | None = None,
        positives: Positives = "diagonal",
        label_ids: Tensor | None = None,
        reduction: Reduction = "factorial",
    ) -> Tensor | None:
        """Compute the contrastive loss plus the penalty; return None if there is no pair of modalities.

        `losses.pairwise_contrastive_loss` documents the options; the defaults are as published.
        """
        pairs = [pair for pair in logits if pair is not None]
        if not pairs:
            return None
        loss = pairwise_contrastive_loss(
            pairs, sample_weight=sample_weight, positives=positives, label_ids=label_ids, reduction=reduction
        )
        return loss if penalty is None else loss + penalty


def _refuse_both(clip: str, clip_args: dict[str, Any]) -> None:
    """Raise ValueError if arguments of the published towers are given in addition to `clip`."""
    parameters = inspect.signature(AudioCLIP.__init__).parameters
    as_given = {name: tuple(value) if isinstance(value, list) else value for name, value in clip_args.items()}
    given = [name for name, value in as_given.items() if value != parameters[name].default]
    if given:
        raise ValueError(
            f'{given[0]} is {clip_args[given[0]]!r}, but clip is "{clip}", whose towers are fixed. '
            f"Omit clip, or else {', '.join(given)}."
        )
