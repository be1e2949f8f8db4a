"""The base class of contrastive tasks: checks, loss of a pair of modalities, and zero-shot scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import EmbeddingTask
from model.audioclip import AudioCLIP
from model.embedding import WindowedEmbedding
from model.interfaces import AudioTextModel
from model.losses import Reduction, normalised
from model.matches import Matches, Positives
from model.parts import LossKind, PairLoss, Similarity
from utils.tasks.clip_media import Portraits, ShowsAudio
from utils.tasks.distillation import Distillation, Form, Teacher
from utils.tasks.labels import Classes, check_audio
from utils.tasks.prompts import Prompts
from utils.tasks.random_masks import RandomMasks


class ContrastiveTask(ShowsAudio, EmbeddingTask):
    """Base class of tasks that compare embeddings and score samples against the class texts.

    Attributes:
        class_names: class names of the data set, in the order of the scores.
        class_features: normalised embeddings of the class texts in the latest evaluation, float32
            `[classes, D]`.
    """

    gives_features = True

    def __init__(
        self,
        prompts: Prompts,
        *,
        positives: Positives,
        reduction: Reduction,
        label_smoothing: float,
        loss: LossKind,
        block: int | None,
        window_samples: int | None,
        spectrogram_masks: Mapping[str, float] | None,
        teacher: Teacher | None = None,
        distillation: Mapping[Form, float] | None = None,
    ) -> None:
        for name, value, allowed in (
            ("positives", positives, get_args(Positives)),
            ("reduction", reduction, get_args(Reduction)),
            ("loss", loss, get_args(LossKind)),
        ):
            if value not in allowed:
                raise ValueError(f'{name} is "{value}"; allowed: {", ".join(allowed)}.')
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and less than 1.")
        for name, size in (("window_samples", window_samples), ("block", block)):
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be positive, or null.")
        if teacher is None and distillation is not None:
            raise ValueError(
                f"distillation is {distillation}, but there is no teacher; give one, or remove distillation."
            )
        self._distillation = None if teacher is None else Distillation(teacher, distillation)
        self._prompts = prompts
        self._positives: Positives = positives
        self._reduction: Reduction = reduction
        self._label_smoothing = label_smoothing
        self._loss: LossKind = loss
        self._block = block
        self._window_samples = window_samples
        self.random_masks = RandomMasks.of(spectrogram_masks)
        self.takes_unequal_lengths = window_samples is not None
        self._classes = Classes([])
        self._sample_rate: int | None = None
        self.class_features = torch.empty(0)

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check the model and the data, and that every class name fits the text tower."""
        embedder = self.embedder(model)
        self.class_names = tuple(self._classes.names)
        self.multilabel = embedder.multilabel
        self.portraits = Portraits.of(getattr(model, "audio", None), test)
        if self.random_masks:
            self.random_masks.check(model)
        self._sample_rate = getattr(test, "sample_rate", None)
        if self._distillation:
            self.other_models = (self._distillation.prepare(embedder),)
        for each in self.embedders(model):
            if each.sample_rate and self._sample_rate is None:
                raise ValueError(
                    f"{type(each).__name__} resamples audio to {each.sample_rate} Hz, but "
                    f"{type(test).__name__} does not state its rate; give it an attribute sample_rate, in Hz."
                )
        check_audio(train)
        check_audio(test)
        for each in self.embedders(model):
            self._prompts.check(each, self.class_names)
        if self._loss == "sigmoid" and isinstance(model, AudioCLIP) and not model.has_logit_biases:
            raise ValueError(
                'loss is "sigmoid", which needs a model with biases: set Model.args.logit_bias, for example '
                "to -10."
            )

    def check_biases(self, model: nn.Module) -> Iterator[Finding]:
        """Find biases of the sigmoid loss that are frozen, although their scales learn."""
        weights = dict(model.named_parameters()) if self._loss == "sigmoid" else {}
        for name in ("logit_bias_ai", "logit_bias_at", "logit_bias"):
            scale = weights.get(name.replace("bias", "scale"))
            if name in weights and scale is not None and scale.requires_grad > weights[name].requires_grad:
                yield Finding(
                    severity="warning",
                    what="The sigmoid loss needs a bias, but no rule of Parameters trains it.",
                    where=name,
                    remedy='Match "logit_(scale|bias).*" in a rule, with the argument "weight_decay": 0.0.',
                )

    def embed_targets(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Embed the samples with the teacher; return nothing without a teacher."""
        del model
        if not self._distillation:
            return {}
        return self._distillation.targets(lambda teacher: self._embed_for(teacher, batch))

    @abstractmethod
    def _embed_for(self, teacher: AudioTextModel, batch: Any) -> dict[str, Tensor]:
        """Embed the samples that `embed` embeds, in the same order, with a teacher."""

    def start_evaluation(self, model: nn.Module) -> None:
        """Embed the class texts."""
        if self.class_names:
            names = [[name] for name in self.class_names]
            self.class_features = self._prompts.encode(self.embedder(model), names)

    def embedder(self, model: nn.Module) -> AudioTextModel:
        """Return the model; raise ValueError if it does not embed audio and texts, or cannot be trained."""
        if isinstance(model, AudioCLIP):
            return model
        if not isinstance(model, AudioTextModel):
            raise ValueError(
                f"{type(self).__name__} needs an AudioCLIP model; Model.class is {type(model).__name__}. "
                "For a classifier use utils.tasks.Classification. Another model of audio and text needs the "
                "methods and attributes of model.interfaces.AudioTextModel."
            )
        if any(parameter.requires_grad for parameter in model.parameters()):
            raise self._cannot_train(model)
        return model

    def embedders(self, model: nn.Module) -> list[AudioTextModel]:
        """Return the model, and the teacher if there is one."""
        return [self.embedder(model), *([self._distillation.teacher] if self._distillation else [])]

    def audioclip(self, model: nn.Module) -> AudioCLIP:
        """Return a model that can be trained; raise ValueError if it is not an AudioCLIP."""
        if not isinstance(model, AudioCLIP):
            self.embedder(model)
            raise self._cannot_train(model)
        return model

    def _cannot_train(self, model: nn.Module) -> ValueError:
        return ValueError(
            f"{type(self).__name__} trains only AudioCLIP models; a {type(model).__name__} can only be "
            'evaluated. Set Setup.epochs to 0, and "train" to false in every rule of Parameters.'
        )

    def class_scores(self, model: AudioTextModel, features: Tensor) -> Tensor:
        """Score samples against the classes.

        Args:
            model: model that supplies the logit scale.
            features: normalised features of the samples, `[B, D]`.

        Returns:
            `softmax(scale * cosine)`, or `sigmoid(cosine - 0.5)` for a multilabel model, `[B, classes]`.
        """
        if model.multilabel:
            return torch.sigmoid(features @ self.class_features.T - 0.5)
        logits = model.logits(audio_features=features, text_features=self.class_features).audio_text
        assert logits is not None
        return logits.softmax(dim=-1)

    def pair_part(
        self,
        similarity: Similarity,
        batch: int,
        own: slice,
        *,
        matches: Matches | None,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compare two modalities of a batch of B samples.

        Args:
            similarity: function that computes similarities, see `similarity_of`.
            batch: number of samples, B.
            own: samples whose part of the loss is wanted.
            matches: matches between rows and columns.
            sample_weight: weights `[B]`; None for equal weights.

        Returns:
            The part of the loss, a scalar; and the similarities `[own, B]` without gradients, or `[0, B]` if
            nothing reads them.
        """
        loss = PairLoss(
            batch=batch,
            matches=matches,
            kind=self._loss,
            sample_weight=sample_weight,
            label_smoothing=self._label_smoothing,
        )
        part = loss.part(similarity, own, block=self._block)
        with torch.no_grad():
            return part, similarity(own if self.scores_are_read else slice(0, 0), slice(0, batch))

    def embed_clips(self, model: AudioTextModel, audio: Tensor | PaddedBatch) -> Tensor:
        """Embed clips in eval mode, averaging evenly spaced windows of clips longer than `window_samples`.

        Args:
            model: model in eval mode.
            audio: clips `[B, C, T]`, 16-bit units; a `PaddedBatch` if their lengths differ.

        Returns:
            Normalised features, float32 `[B, D]`.
        """

        def encode(clips: Tensor) -> Tensor:
            return encode_clips(model, clips, sample_rate=self._sample_rate)  # units were checked before

        values, lengths = audio if isinstance(audio, PaddedBatch) else (audio, None)
        longest = values.shape[-1]
        window = self._window_samples or longest
        if lengths is None and longest <= window:
            return normalised(encode(values))
        embedding = WindowedEmbedding(encode, window=window, batch_size=len(values))
        sizes = [longest] * len(values) if lengths is None else lengths.tolist()
        for clip, length in zip(values, sizes, strict=True):
            embedding.add(clip[:, :length])
        return embedding.embeddings()


def similarity_of(model: AudioTextModel, features: Mapping[str, Tensor]) -> Similarity:
    """Return the function that computes the scaled similarities of some rows and some columns.

    Args:
        model: model that supplies scales and biases.
        features: normalised features `[B, D]` of the rows and of the columns, as arguments of `model.logits`.
    """
    (first, rows), (second, columns) = features.items()

    def similarity(of_rows: slice, of_columns: slice) -> Tensor:
        logits = model.logits(**{first: rows[of_rows], second: columns[of_columns]})
        (found,) = (pair for pair in logits if pair is not None)
        return found

    return similarity


def encode_clips(model: AudioTextModel, clips: Tensor, *, sample_rate: int | None) -> Tensor:
    """Embed clips whose units are known, so that quiet clips are not mistaken for audio in [-1, 1].

    Args:
        model: model that embeds audio.
        clips: `[B, C, T]`, 16-bit units, on the model's device.
        sample_rate: sample rate of the clips, Hz. If the model states its own rate, they are resampled to it
            with a windowed sinc (torchaudio). None if the clips have the model's rate.

    Returns:
        `[B, D]` features, not normalised.
    """
    wanted = model.sample_rate
    if None not in (sample_rate, wanted) and sample_rate != wanted:
        from torchaudio.functional import resample  # noqa: PLC0415 (seldom needed)

        with torch.autocast(clips.device.type, enabled=False):
            clips = resample(clips.float(), sample_rate, wanted)
    return model.encode_audio(clips, check_units=False)
