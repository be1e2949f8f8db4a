"""AudioCLIP: audio, images and text in one embedding space (arXiv 2106.13043)."""

import inspect
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from . import embedding, zero_shot
from .clip.open_clip_models import build_named_clip
from .clip.texts import Text, tokenize
from .clip.towers import build_clip, encode_tokens, recompute_transformers, refuse_both, text_parameters
from .esresnet.esresnext import AudioFeatures, ESResNeXt
from .losses import Positives, Reduction, pairwise_contrastive_loss
from .pretrained import Pretrained, find_sources, load_sources
from .recompute import recompute
from .similarity import Features, Logits, scaled_similarity
from .weights.built_from import NOT_DESCRIBED, arguments_for
from .weights.hub import HubLayout, is_hub_layout
from .weights.loading import MisfitError
from .weights.releases import find_weights, released_hashes


class AudioCLIP(nn.Module, HubLayout):
    """Three towers with one embedding space, and a similarity scale for each pair of them.

    Image and text towers are OpenAI's CLIP (RN50 by default, with QuickGELU) or any other of open_clip's, the
    audio tower is ESResNeXt-fbsp. State-dict names are those of the released checkpoints, and of open_clip.

    Like any module it is in train mode once built; `from_pretrained` returns it in eval mode.

    Args:
        embed_dim: dimension D of the embedding space.
        image_resolution: height and width of images, pixels.
        vision_layers: blocks of each stage of a ResNet; the number of layers of a vision transformer.
        vision_width: channels of the first stage; width of a vision transformer.
        vision_patch_size: of a vision transformer, pixels; None makes a ResNet.
        context_length: tokens of a text, start and end included.
        vocab_size: tokens known; CLIP's tokenizer has 49408.
        transformer_width, transformer_heads, transformer_layers: of the text tower.
        n_fft, hop_length, win_length, window, normalized, onesided, spec_height, spec_width,
        apply_attention: of the audio tower, see `ESResNeXt`.
        multilabel: whether samples carry several labels. The network is the same; tasks read it to choose
            between softmax and independent scores.
        pretrained: False: random weights. A path of a file or of a folder of runs (the best of the newest),
            or the name of a released file: those weights, all of them. True: CLIP.pt for image and text and
            ESRNXFBSP.pt for audio, from `assets`. A mapping: of "clip" (image and text), a path, a released
            name or one of open_clip's tags; of "audio", a path, a released name or "imagenet"; a part that is
            not in it is random.
        clip: name of a model of open_clip, such as "ViT-B-32-quickgelu", in place of the arguments
            `embed_dim` to `transformer_layers`, which are left out then. D is its own.
        spectrum: of the audio tower, "fbsp" or "stft".
        assets: folder of the released weights; None: the repository's `assets/`.

    Attributes:
        image_preprocessing: how pictures are prepared for the image tower.
        weights_files: the files that the initial weights were read from; none if they are random.
        weights_sha256: of those that are released ones, by name and size, the hash they should have.

    Raises:
        ValueError: arguments that do not fit together.
        WeightsError: the weights are not there or do not fit.

    Example:
        A small one with random weights.

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
        window: str | None = "blackmanharris",
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
        assets: str | Path | None = None,
    ) -> None:
        super().__init__()
        published: dict[str, Any] = {
            "embed_dim": embed_dim,
            "image_resolution": image_resolution,
            "vision_layers": vision_layers,
            "vision_width": vision_width,
            "vision_patch_size": vision_patch_size,
            "context_length": context_length,
            "vocab_size": vocab_size,
            "transformer_width": transformer_width,
            "transformer_heads": transformer_heads,
            "transformer_layers": transformer_layers,
        }
        if clip is not None:
            arguments = inspect.signature(AudioCLIP.__init__).parameters
            refuse_both(clip, published, {name: arguments[name].default for name in published})
        sources = find_sources(pretrained, clip=clip, assets=assets)
        self.weights_files = sources.files
        self.weights_sha256 = released_hashes(sources.files)
        self.multilabel, self.clip = multilabel, clip
        towers = build_clip(**published) if clip is None else build_named_clip(clip)
        self.context_length, self.image_preprocessing = towers.context_length, towers.preprocessing
        self._adopt_clip(towers.network)
        self.audio = ESResNeXt(
            n_fft=n_fft,
            hop_length=hop_length,
            win_length=win_length,
            window=window,
            normalized=normalized,
            onesided=onesided,
            spec_height=spec_height,
            spec_width=spec_width,
            num_classes=towers.embed_dim,
            apply_attention=apply_attention,
            pretrained=False,
            spectrum=spectrum,
        )
        self.logit_scale_ai = nn.Parameter(torch.tensor(math.log(100.0)))
        self.logit_scale_at = nn.Parameter(torch.tensor(math.log(100.0)))
        load_sources(self, self.audio, sources, clip_args={**published, "clip": clip})

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path, *, device: torch.device | str | None = None, **constructor_args: Any
    ) -> "AudioCLIP":
        """Build a model for inference: weights loaded, in eval mode.

        A trained model is built with the arguments that it was trained with: those that its checkpoint
        holds, or that `protocol.json` beside it has. Of a folder of runs it is the best checkpoint of the
        newest finished run; stderr says which.

        Args:
            source: a released name such as "AudioCLIP-Full-Training"; the path of a file of weights; the
                folder of a run, or of all runs of a protocol, such as "results/Quickstart"; a folder that
                `save_pretrained` wrote; or `owner/name` of the Hugging Face hub.
            device: where to put it; None: the CPU.
            constructor_args: those of the class, without `pretrained`, that are to be others than the
                checkpoint, or the config of a folder or repository, says.

        Raises:
            WeightsError: there are no such weights, or they are of another model; the message says what to
                call.
        """
        if is_hub_layout(source):
            model = super().from_pretrained(source, **constructor_args)
        else:
            file = find_weights(source, assets=constructor_args.get("assets"))
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
        """Take over the children and parameters of open_clip's CLIP under their own names."""
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
        """Where the model is."""
        return self.logit_scale_at.device

    @property
    def text_is_frozen(self) -> bool:
        """Whether no parameter of the text tower is trained, so that a text has the same features always."""
        return not any(parameter.requires_grad for parameter in text_parameters(self))

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Embed audio clips.

        Args:
            audio: `[B, C, T]`, 16-bit units (about -32768..32767), 44.1 kHz.

        Returns:
            `[B, D]` features, not normalised.

        Raises:
            ValueError: the input has not three dimensions; in eval mode also: it looks like audio in
                [-1, 1].
        """
        features: Tensor = self.audio(audio)
        return features

    def encode_audio_with_penalty(self, audio: Tensor) -> AudioFeatures:
        """Embed audio clips, and compute the wavelet-norm penalty that belongs to the loss."""
        return self.audio.forward_with_penalty(audio)

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed images.

        Args:
            image: `[B, 3, height, width]`, prepared as `image_preprocessing` says; see image_input.py.

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
            text: entries; the labels of a list are joined with ", ".
            base_str: template, `{}` stands for the entry.
            batch_indices: which entries to encode, in this order; None: all.

        Returns:
            `[B, D]` features, not normalised.

        Raises:
            ValueError: a text is too long, or the template lacks its `{}`.
        """
        if batch_indices is not None:
            text = [text[int(index)] for index in batch_indices]
        tokens = self.tokenize(text, base_str).to(self.device)  # [B, L]
        with record_function("step/text tower"):
            return encode_tokens(self, tokens)

    def compile_towers(self) -> None:
        """Have the audio and the image tower compiled when they are called, for fixed shapes; names stay.

        The text tower is left: while it is frozen, a text goes through it once in a run.
        """
        self.audio.compile_towers()
        self.visual.compile(dynamic=False)

    def recompute_activations(self) -> None:
        """In training, keep of all towers only what enters their blocks; names stay."""
        self.audio.recompute_activations()
        recompute(self.visual)
        recompute_transformers(self)

    def tokenize(self, text: Text, base_str: str = "{}") -> Tensor:
        """Turn texts into tokens for this model's context length; see `model.clip.towers.texts.tokenize`."""
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
        """Embed what is given, compare all pairs and compute the published loss.

        Args:
            audio: as for `encode_audio`.
            image: as for `encode_image`.
            text: as for `encode_text`.
            batch_indices: the entries of `text` that belong to this batch; None: all.
            sample_weight: `[B]`, see `model.losses.sample_weights`.

        Returns:
            `((audio, image, text features), (audio-image, audio-text, image-text logits)), loss`; None for
            what was not given, and for the loss of a single modality.

        Raises:
            ValueError: as the encoders, or the modalities have different numbers of items.
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
        """Compare normalised features `[B, D]` of the modalities given, pair by pair, scaled."""
        return Logits(
            audio_image=scaled_similarity(self.logit_scale_ai, audio_features, image_features),
            audio_text=scaled_similarity(self.logit_scale_at, audio_features, text_features),
            image_text=scaled_similarity(self.logit_scale, image_features, text_features),
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
        """Compute the contrastive loss plus the penalty; None if no pair of modalities is there.

        Options as for `model.losses.pairwise_contrastive_loss`; the defaults are the published ones.
        """
        pairs = [pair for pair in logits if pair is not None]
        if not pairs:
            return None
        loss = pairwise_contrastive_loss(
            pairs, sample_weight=sample_weight, positives=positives, label_ids=label_ids, reduction=reduction
        )
        return loss if penalty is None else loss + penalty
