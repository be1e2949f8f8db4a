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
from model.matches import Matches, Positives, find_matches
from model.parts import LossKind, PairLoss, Similarity
from utils.datasets.sample import Listing
from utils.tasks.clip_media import Portraits, ShowsAudio
from utils.tasks.distillation import TEACHER, Distillation, Form, TaughtPair, Teacher
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
            least 0 and less than 1 (arXiv 1512.00567). With the sigmoid loss, this raises the probability of
            a match from 0 towards the fraction of pairs that match.
        loss: "softmax", as published, or "sigmoid", which classifies each pair of a clip and a text as
            matching or not (SigLIP, arXiv 2303.15343), for models with `logit_bias`.
        block: number of a process's samples to compare at a time; their similarities are computed again in
            the backward pass, which limits memory. None for all; with the sigmoid loss, for a number with
            which the memory does not depend on the number of processes.
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
        loss: LossKind = "softmax",
        block: int | None = None,
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
            loss=loss,
            block=block,
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
        yield from self.check_biases(model)
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
        return self.compare_part(model, embeddings, batch, slice(0, len(batch.labels)))

    def compare_part(
        self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any, own: slice
    ) -> StepOutput:
        """Return the part of the loss and the scores of the clips `own`."""
        audioclip = self.audioclip(model)
        return self._compare(audioclip, embeddings, batch, own, penalty=audioclip.audio.wavelet_penalty())

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Do the same as `compare`, but compute the wavelets once for both embeddings and penalty."""
        audioclip = self.audioclip(model)
        embeddings, penalty = self._embed(audioclip, batch)
        embeddings |= self.embed_targets(model, batch)
        return self._compare(audioclip, embeddings, batch, slice(0, len(batch.labels)), penalty=penalty)

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
        self, model: AudioCLIP, embeddings: Mapping[str, Tensor], batch: Any, own: slice, *, penalty: Tensor
    ) -> StepOutput:
        same_label, count = self._positives == "same_label", len(batch.labels)
        with record_function("step/loss"):
            similarity = similarity_of(model, _features(embeddings))
            loss, scores = self.pair_part(
                similarity,
                count,
                own,
                matches=find_matches(
                    count,
                    positives=self._positives,
                    label_ids=label_ids_of(own_values(batch.labels)) if same_label else None,
                    mixtures=mixtures_of(batch.labels, by_label=same_label),
                ),
                sample_weight=weights_of(batch.labels, self._class_weights) if self._class_weights else None,
            )
            loss = loss + penalty * ((own.stop - own.start) / count)
            if self._distillation:
                of_teacher = similarity_of(self._distillation.teacher, _features(embeddings, TEACHER))
                loss = loss + self._distillation.part(
                    embeddings,
                    {"audio": own, "text": own},
                    [TaughtPair(similarity, of_teacher, count, own)],
                    self._reduction,
                    block=self._block,
                )
        return StepOutput(
            scores, torch.arange(own.start, own.start + len(scores), device=scores.device), loss
        )


def _features(embeddings: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Select the embeddings of audio and texts, as arguments of `logits`."""
    return {f"{name}_features": embeddings[f"{prefix}{name}"] for name in ("audio", "text")}
