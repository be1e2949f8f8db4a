"""Contrastive training of audio and text, and zero-shot classification without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import StepOutput
from model.audioclip import AudioCLIP
from model.interfaces import AudioTextModel, ThreeModalityModel
from model.losses import Reduction, label_ids_of, normalised, sample_weights
from model.matches import Positives, find_matches
from model.parts import LossKind
from utils.datasets.sample import Listing
from utils.tasks.contrastive_base import ContrastiveTask, similarity_of
from utils.tasks.distillation import TEACHER, Form, TaughtPair, Teacher
from utils.tasks.labels import SEVERAL, Classes, check_labels, check_rate, check_samples
from utils.tasks.mixing import mixtures_of, own_values, weights_of
from utils.tasks.prompts import Prompts


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
            least 0 and less than 1 (arXiv 1512.00567). With the sigmoid loss, this moves each target towards
            1 / B.
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
