"""Contrastive training of audio and text with zero-shot scores, and the base class of contrastive tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import EmbeddingTask, StepOutput
from model.audioclip import AudioCLIP
from model.embedding import WindowedEmbedding, encode_clips
from model.interfaces import AudioTextModel, ThreeModalityModel
from model.losses import Reduction, label_ids_of, normalised, sample_weights
from model.matches import Positives
from utils.datasets.sample import Listing
from utils.tasks.clip_media import Portraits, ShowsAudio
from utils.tasks.distillation import TEACHER, Distillation, Form, Teacher
from utils.tasks.labels import SEVERAL, Classes, check_audio, check_labels, check_rate, check_samples
from utils.tasks.mixing import mixtures_of, own_values, weights_of
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
        window_samples: int | None,
        spectrogram_masks: Mapping[str, float] | None,
        teacher: Teacher | None = None,
        distillation: Mapping[Form, float] | None = None,
    ) -> None:
        for name, value, allowed in (
            ("positives", positives, get_args(Positives)),
            ("reduction", reduction, get_args(Reduction)),
        ):
            if value not in allowed:
                raise ValueError(f'{name} is "{value}"; allowed: {", ".join(allowed)}.')
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and less than 1.")
        if window_samples is not None and window_samples < 1:
            raise ValueError(f"window_samples is {window_samples}; it must be positive, or null.")
        if teacher is None and distillation is not None:
            raise ValueError(
                f"distillation is {distillation}, but there is no teacher; give one, or neither."
            )
        self._distillation = None if teacher is None else Distillation(teacher, distillation)
        self._prompts = prompts
        self._positives: Positives = positives
        self._reduction: Reduction = reduction
        self._label_smoothing = label_smoothing
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


class AudioTextContrastive(ContrastiveTask):
    """Align each clip's audio with the text of its labels.

    The loss is the contrastive loss over the batch (arXiv 2106.13043, section 3) plus the wavelet-norm
    penalty. In evaluation, a clip's class scores are `softmax(scale * cosine)` of its audio and the class
    texts, or `sigmoid(cosine - 0.5)` for a multilabel model. Without training, this is zero-shot
    classification.

    While the text tower is frozen, each text is encoded once per run. If a transform mixes samples, audio
    matches the texts of all samples in its mixture, weighted by their shares.

    Args:
        template: prompt template, with `{}` where the labels go. The embeddings of several templates are
            averaged.
        positives: treatment of samples with equal labels in a batch: "diagonal" makes them negatives, as
            published; "same_label" makes them all positives.
        reduction: reduction of the loss over pairs of modalities: "factorial", as published, or "mean", which
            is the same for a single pair.
        label_smoothing: share of the uniform distribution over the batch in the target distributions, at
            least 0 and less than 1 (arXiv 1512.00567).
        class_weights: weight of each class, by name; a sample's weight is the sum over its labels. None for
            equal weights.
        class_texts: texts that replace class names, such as {"can opening": "opening a can"}.
        window_samples: window length in evaluation, in samples. The features of longer clips are averaged
            over evenly spaced windows, and clips may differ in length. None to embed every clip as a whole.
        spectrogram_masks: masks of the spectrogram in training (SpecAugment, arXiv 1904.08779): the numbers
            of "time" and "frequency" masks, by default 0, and their maximum widths, "max_time" and
            "max_frequency", as shares of the axis, by default 0.1. Masked parts have the mean level of the
            clip's spectrogram, in dB. None for no masks.
        teacher: frozen model whose embeddings the model also learns from: the source of an AudioCLIP, such as
            "AudioCLIP-Full-Training" or a folder of runs, or {"class": "model.clap.Clap", "args": {...}}.
        distillation: weights of the losses that compare the model with the teacher: "similarities", of the
            scaled similarities of audio and text within a batch, which suits any teacher; "embeddings", of
            the embeddings themselves, for a teacher with as many dimensions. None for {"similarities": 1.0}.
    """

    def __init__(
        self,
        template: str | Sequence[str] = "{}",
        *,
        positives: Positives = "diagonal",
        reduction: Reduction = "factorial",
        label_smoothing: float = 0.0,
        class_weights: Mapping[str, float] | None = None,
        class_texts: Mapping[str, str] | None = None,
        window_samples: int | None = None,
        spectrogram_masks: Mapping[str, float] | None = None,
        teacher: Teacher | None = None,
        distillation: Mapping[Form, float] | None = None,
    ) -> None:
        super().__init__(
            Prompts(template, class_texts),
            positives=positives,
            reduction=reduction,
            label_smoothing=label_smoothing,
            window_samples=window_samples,
            spectrogram_masks=spectrogram_masks,
            teacher=teacher,
            distillation=distillation,
        )
        self._class_weights = class_weights

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check the model and the data, and that every class name fits the text tower."""
        self.embedder(model)
        self._classes = Classes.of(train, test)
        super().prepare(model, train=train, test=test)
        if self._class_weights:
            sample_weights([[name] for name in self._classes.names], self._class_weights)

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterator[Finding]:
        """Find samples without a sound, with no label or too many, and labels too long for the text tower.

        In training, several labels form one text; only scores require a single label.
        """
        embedder = self.embedder(model)
        if embedder.sample_rate is None:
            yield from check_rate(test)
        finders = [self._prompts.too_long(each) for each in self.embedders(model)]

        def check(sample: Listing, scored: bool) -> Iterator[Finding]:
            if not sample.audio:
                yield Finding(
                    severity="error",
                    what="A sample has no sound, which this task needs.",
                    where=sample.place,
                    remedy="Remove it from the data set, or choose utils.tasks.Contrastive.",
                )
            yield from check_labels(sample, multilabel=embedder.multilabel or not scored, remedy=SEVERAL)
            for too_long in finders:
                yield from too_long(sample.place, sample.labels)

        yield from check_samples(train, test, check, train_is_scored=train_is_scored)

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Embed the samples' audio and the texts of their labels, each normalised, `[B, D]`."""
        return self._embed(self.audioclip(model), batch)[0]

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss, and as scores each clip's similarities to the texts in the batch."""
        audioclip = self.audioclip(model)
        return self._compare(audioclip, embeddings, batch, penalty=audioclip.audio.wavelet_penalty())

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Do the same as `compare`, but compute the wavelets once for both embeddings and penalty."""
        audioclip = self.audioclip(model)
        embeddings, penalty = self._embed(audioclip, batch)
        embeddings |= self.embed_targets(model, batch)
        return self._compare(audioclip, embeddings, batch, penalty=penalty)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return class scores `[B, classes]`, targets, and embeddings of the audio and any images.

        Images are ignored if the model does not embed images.
        """
        embedder = self.embedder(model)
        features = {"audio": self.embed_clips(embedder, batch.audio)}
        if batch.image is not None and isinstance(embedder, ThreeModalityModel):
            features["image"] = normalised(embedder.encode_image(batch.image))
        scores = self.class_scores(embedder, features["audio"])
        targets = self._classes.targets(batch.labels, multilabel=embedder.multilabel, device=embedder.device)
        return StepOutput(scores, targets, features=features)

    def _embed(self, model: AudioCLIP, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        masks = self.draw_masks(batch.audio)
        features, penalty = model.encode_audio_with_penalty(batch.audio, masks=masks)
        audio = normalised(features)
        return {"audio": audio, "text": self._prompts.encode(model, own_values(batch.labels))}, penalty

    def _embed_for(self, teacher: AudioTextModel, batch: Any) -> dict[str, Tensor]:
        audio = self.embed_clips(teacher, batch.audio)
        return {"audio": audio, "text": self._prompts.encode(teacher, own_values(batch.labels))}

    def _compare(
        self, model: AudioCLIP, embeddings: Mapping[str, Tensor], batch: Any, *, penalty: Tensor
    ) -> StepOutput:
        weights = weights_of(batch.labels, self._class_weights) if self._class_weights else None
        same_label = self._positives == "same_label"
        with record_function("step/loss"):
            logits = model.logits(audio_features=embeddings["audio"], text_features=embeddings["text"])
            loss = model.loss(
                logits,
                penalty=penalty,
                sample_weight=weights,
                positives=self._positives,
                label_ids=label_ids_of(own_values(batch.labels)) if same_label else None,
                mixtures=mixtures_of(batch.labels, by_label=same_label),
                label_smoothing=self._label_smoothing,
                reduction=self._reduction,
            )
            assert logits.audio_text is not None and loss is not None
            if self._distillation:
                taught = {f"{name}_features": embeddings[f"{TEACHER}{name}"] for name in ("audio", "text")}
                pairs = [(logits.audio_text, taught)]
                loss = loss + self._distillation.loss(embeddings, pairs, self._reduction)
        own = torch.arange(len(logits.audio_text), device=logits.audio_text.device)
        return StepOutput(logits.audio_text, own, loss)
