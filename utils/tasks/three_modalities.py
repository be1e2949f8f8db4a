"""Contrastive training of audio, images and texts, pair by pair, for samples with any of the modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import StepOutput
from model.audioclip import AudioCLIP
from model.esresnet import SpectrogramMasks
from model.interfaces import AudioTextModel, ThreeModalityModel
from model.losses import Reduction, combined, label_ids_of, normalised
from model.matches import Positives, find_matches
from model.parts import LossKind
from utils.datasets.sample import Listing
from utils.tasks.contrastive_base import ContrastiveTask, similarity_of
from utils.tasks.distillation import TEACHER, Form, TaughtPair, Teacher
from utils.tasks.given import Given, reach
from utils.tasks.labels import SEVERAL, Classes, check_labels, check_rate, check_samples
from utils.tasks.prompts import Prompts

Modality = Literal["audio", "image", "text"]
MODALITIES: tuple[Modality, ...] = ("audio", "image", "text")
_PAIRS: tuple[tuple[Modality, Modality], ...] = (("audio", "image"), ("audio", "text"), ("image", "text"))


class Contrastive(ContrastiveTask):
    """Align each sample's audio, image and text, one pair of modalities at a time.

    ```text
    sample 0   audio  image  text       audio-image: 0
    sample 1   audio         text       audio-text:  0, 1
    sample 2          image  text       image-text:  0, 2
    ```

    The loss of a pair of modalities is the contrastive loss (arXiv 2106.13043, section 3) over the samples
    that have both. The loss of a batch is the mean over its pairs, plus the wavelet-norm penalty if the batch
    has audio. A sample's text is its caption; without a caption, its labels are joined with ", " and put into
    the template. If a sample has several captions, training draws one of them for each epoch, and evaluation
    embeds them all. If a transform mixes samples, audio matches the images and texts of all samples in its
    mixture, weighted by their shares; images and texts stay unmixed. A text too long for the text tower is
    shortened. The protocol's `Parameters` section decides which towers learn.

    In evaluation, class scores are computed as in `AudioTextContrastive`, from a sample's audio, or otherwise
    from its image, or from its text. If the data have no classes, a sample's only score is the mean cosine
    similarity between its modalities, and that of several captions is the mean of theirs.

    Args:
        template: prompt template, with `{}` where the labels go. The embeddings of several templates are
            averaged.
        modalities: modalities to compare; others are ignored.
        positives: treatment of equal samples in a batch: "diagonal" makes them negatives, as published;
            "same_label" makes samples with the same set of labels, or otherwise the same text, all positives.
        reduction: reduction of the loss over n pairs of modalities: "mean", or, as published, "factorial":
            the sum divided by n!.
        label_smoothing: share of the uniform distribution over a pair's samples in the target distributions,
            at least 0 and less than 1 (arXiv 1512.00567). With the sigmoid loss, this moves each target
            towards 1 / B.
        loss: "softmax", as published, or "sigmoid", which classifies each pair of samples as matching or not
            (SigLIP, arXiv 2303.15343), for models with `logit_bias`.
        block: number of a process's samples to compare at a time; their similarities are computed again in
            the backward pass, which limits memory. None for all; with the sigmoid loss, for a number with
            which the memory does not depend on the number of processes.
        class_texts: texts that replace class names, by class name.
        window_samples: window length in evaluation, in samples. The features of longer clips are averaged
            over evenly spaced windows, and clips may differ in length. None to embed every clip as a whole.
        spectrogram_masks: masks of the spectrogram in training (SpecAugment, arXiv 1904.08779): the numbers
            of "time" and "frequency" masks, by default 0, and their maximum widths, "max_time" and
            "max_frequency", as shares of the axis, by default 0.1. Masked parts have the mean level of the
            clip's spectrogram, in dB. None for no masks.
        teacher: frozen model whose embeddings the model also learns from: the source of an AudioCLIP, such as
            "AudioCLIP-Full-Training" or a folder of runs, or {"class": "model.clap.Clap", "args": {...}}.
        distillation: weights of the losses that compare the model with the teacher: "similarities", of the
            scaled similarities of two modalities within a batch, which suits any teacher; "embeddings", of
            the embeddings themselves, for a teacher with as many dimensions. None for {"similarities": 1.0}.
    """

    def __init__(
        self,
        template: str | Sequence[str] = "{}",
        *,
        modalities: Sequence[Modality] = MODALITIES,
        positives: Positives = "diagonal",
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        loss: LossKind = "softmax",
        block: int | None = None,
        class_texts: Mapping[str, str] | None = None,
        window_samples: int | None = None,
        spectrogram_masks: Mapping[str, float] | None = None,
        teacher: Teacher | None = None,
        distillation: Mapping[Form, float] | None = None,
    ) -> None:
        super().__init__(
            Prompts(template, class_texts, shorten=True),
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
        if len(set(modalities)) < 2 or not set(modalities) <= set(MODALITIES):
            raise ValueError(
                f"modalities is {modalities}; it must contain two or three of {', '.join(MODALITIES)}."
            )
        self._modalities = frozenset(modalities)
        self._descriptions = Prompts("{}", shorten=True)

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check the model and the data, and that every class name fits the text tower."""
        self.embedder(model)
        if getattr(train, "class_names", None):
            self._classes = Classes.of(train, test)
        super().prepare(model, train=train, test=test)

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterator[Finding]:
        """Find samples whose labels cannot be scored, and texts that are too long for the text tower.

        Training does not need labels: a sample without text and labels is compared by its other modalities.
        """
        embedder = self.embedder(model)
        if embedder.sample_rate is None:
            yield from check_rate(test)
        yield from self.check_biases(model)
        if self._distillation and "image" in self._modalities and not self._distillation.images:
            yield Finding(
                severity="warning",
                what="The teacher does not embed images, or not those preprocessed for this model; it "
                "teaches only audio and text.",
                remedy="If there are images, choose a teacher with the model's image_preprocessing.",
            )
        finders = [
            (self._prompts.too_long(each), self._descriptions.too_long(each))
            for each in self.embedders(model)
        ]

        def check(sample: Listing, scored: bool) -> Iterator[Finding]:
            if scored and self.class_names and not embedder.multilabel:
                yield from check_labels(sample, multilabel=False, remedy=SEVERAL)
            for labels_too_long, text_too_long in finders if "text" in self._modalities else ():
                for caption in sample.captions:
                    yield from text_too_long(sample.place, [caption])
                if not sample.captions:
                    yield from labels_too_long(sample.place, sample.labels)

        yield from check_samples(
            train, test, check, train_is_scored=train_is_scored, with_classes=bool(self.class_names)
        )

    def example_outputs(self) -> Sequence[StepOutput]:
        """Return example outputs of evaluation steps; without classes they have one score per sample."""
        outputs = [StepOutput(torch.ones(2), torch.zeros(2, dtype=torch.int64))]
        if self.class_names:
            outputs = [*super().example_outputs()]
        return [
            output._replace(features={name: torch.eye(len(output.y_pred)) for name in self._modalities})
            for output in outputs
        ]

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Embed each modality: normalised, `[n, D]`, with one row per sample that has the modality."""
        audioclip, given = self.audioclip(model), Given.of(batch, self._modalities)
        return self._embed(audioclip, given, self.draw_masks(batch.audio))[0]

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss, and as scores the similarities of the batch's first pair of modalities."""
        return self.compare_part(model, embeddings, batch, slice(0, max(map(reach, batch))))

    def compare_part(
        self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any, own: slice
    ) -> StepOutput:
        """Return the part of the loss and the scores of the samples `own`."""
        audioclip, given = self.audioclip(model), Given.of(batch, self._modalities)
        penalty = audioclip.audio.wavelet_penalty() if "audio" in embeddings else None
        return self._compare(audioclip, embeddings, given, own, penalty)

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Do the same as `compare`, but compute the wavelets once for both embeddings and penalty."""
        audioclip, given = self.audioclip(model), Given.of(batch, self._modalities)
        embeddings, penalty = self._embed(audioclip, given, self.draw_masks(batch.audio))
        embeddings |= self.embed_targets(model, batch)
        return self._compare(audioclip, embeddings, given, slice(0, given.samples), penalty)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return class scores `[B, classes]`, targets, and features of all modalities.

        Samples that lack a modality have NaN in its features. If samples have a field for captions, the texts
        have a row for each caption, and are counted.
        """
        embedder = self.embedder(model)
        given = Given.of(batch, self._modalities, several_captions=True)
        embeddings: dict[str, Tensor] = {}
        if given.audio is not None:
            embeddings["audio"] = self.embed_clips(embedder, given.audio)
        embeddings |= self._embed_others(embedder, given)
        like = next(iter(embeddings.values()))
        features: dict[str, Tensor] = {
            name: _mean_per_sample(embeddings.get(name, like[:0]), given.rows[name], given.samples)
            for name in MODALITIES
            if name in self._modalities
        }
        stacked = torch.stack(list(features.values()))  # [modalities, B, D]
        counts: dict[str, Tensor] | None = None
        if hasattr(batch, "text") and "text" in features:
            features["text"] = embeddings.get("text", like[:0])
            texts = torch.bincount(given.rows["text"], minlength=given.samples)
            counts = {"text": texts.to(embedder.device)}
        if not self.class_names:
            none = torch.zeros(given.samples, dtype=torch.int64, device=embedder.device)
            return StepOutput(_agreement(stacked), none, features=features, counts=counts)
        first = stacked.isnan().any(dim=2).logical_not().int().argmax(dim=0)  # [B]
        chosen = stacked[first, torch.arange(len(first), device=first.device)]
        targets = self._classes.targets(given.labels, multilabel=embedder.multilabel, device=embedder.device)
        return StepOutput(self.class_scores(embedder, chosen), targets, features=features, counts=counts)

    def _embed(
        self, model: AudioCLIP, given: Given, masks: SpectrogramMasks | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Embed the modalities in a batch for training; if it has audio, also return the penalty."""
        found: dict[str, Tensor] = {}
        penalty = None
        if given.audio is not None:
            features, penalty = model.encode_audio_with_penalty(given.audio, masks=masks)
            found["audio"] = normalised(features)
        return found | self._embed_others(model, given), penalty

    def _embed_for(self, teacher: AudioTextModel, batch: Any) -> dict[str, Tensor]:
        sees = self._distillation is not None and self._distillation.images
        given = Given.of(batch, self._modalities - (set() if sees else {"image"}))
        audio = {} if given.audio is None else {"audio": self.embed_clips(teacher, given.audio)}
        return audio | self._embed_others(teacher, given)

    def _embed_others(self, model: AudioTextModel, given: Given) -> dict[str, Tensor]:
        """Embed the images and the texts in a batch."""
        found: dict[str, Tensor] = {}
        if given.image is not None:
            if not isinstance(model, ThreeModalityModel):
                raise ValueError(
                    f"The data set has images, which {type(model).__name__} cannot embed. Set "
                    'Task.args.modalities to ["audio", "text"].'
                )
            found["image"] = normalised(model.encode_image(given.image))
        if given.texts:
            found["text"] = self._embed_texts(model, given.texts)
        return found

    def _embed_texts(self, model: AudioTextModel, texts: Sequence[str | Sequence[str]]) -> Tensor:
        """Embed descriptions verbatim and lists of labels in the template, in order."""
        described = [row for row, text in enumerate(texts) if isinstance(text, str)]
        labelled = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        parts = []
        for prompts, rows in ((self._descriptions, described), (self._prompts, labelled)):
            lists = [[text] if isinstance(text := texts[row], str) else text for row in rows]
            if rows:
                parts.append(prompts.encode(model, lists))
        order = torch.tensor([*described, *labelled]).argsort()
        return torch.cat(parts)[order.to(parts[0].device)]

    def _compare(
        self,
        model: AudioCLIP,
        embeddings: Mapping[str, Tensor],
        given: Given,
        own: slice,
        penalty: Tensor | None,
    ) -> StepOutput:
        same_label = self._positives == "same_label"
        own = slice(min(own.start, given.samples), min(own.stop, given.samples))
        with record_function("step/loss"):
            losses: list[Tensor] = []
            taught: list[TaughtPair] = []
            targets = slice(0, int(own.start == 0))  # of the first pair; a single one if there is no pair
            scores = torch.zeros(targets.stop, 1, device=model.device)
            for pair in _PAIRS:
                both = all(name in embeddings and name in given.rows for name in pair)
                rows = given.shared(*pair) if both else torch.empty(0)
                if not len(rows):
                    continue
                given_rows: dict[str, Tensor] = {name: given.rows[name] for name in pair}
                similarity = similarity_of(model, _features_at(rows, given_rows, embeddings))
                own_rows = _within(rows, own)
                loss, of_pair = self.pair_part(
                    similarity,
                    len(rows),
                    own_rows,
                    matches=find_matches(
                        len(rows),
                        positives=self._positives,
                        label_ids=label_ids_of(given.identities(rows)) if same_label else None,
                        mixtures=given.mixtures(rows, by_label=same_label) if pair[0] == "audio" else None,
                    ),
                )
                if not losses:
                    scores, targets = of_pair, slice(own_rows.start, own_rows.start + len(of_pair))
                losses.append(loss)
                if self._distillation and all(f"{TEACHER}{name}" in embeddings for name in pair):
                    features = _features_at(rows, given_rows, embeddings, prefix=TEACHER)
                    of_teacher = similarity_of(self._distillation.teacher, features)
                    taught.append(TaughtPair(similarity, of_teacher, len(rows), own_rows))
            # A batch without a pair gets a zero gradient.
            total = combined(losses, self._reduction) if losses else 0.0 * model.logit_scale_at
            if self._distillation:
                by_name = {name: _within(of, own) for name, of in given.rows.items()}
                total = total + self._distillation.part(
                    embeddings, by_name, taught, self._reduction, block=self._block
                )
            if penalty is not None:
                total = total + penalty * ((own.stop - own.start) / given.samples)
        return StepOutput(scores, torch.arange(targets.start, targets.stop, device=scores.device), total)


def _at(features: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """Select the features of the samples `wanted` from the features of the samples `rows`, a superset."""
    if len(rows) == len(wanted):
        return features
    return features[torch.searchsorted(rows, wanted).to(features.device)]


def _within(rows: Tensor, own: slice) -> slice:
    """Return the positions in `rows`, ascending, of the samples `own`."""
    first, end = torch.searchsorted(rows, torch.tensor([own.start, own.stop])).tolist()
    return slice(first, end)


def _features_at(
    wanted: Tensor, rows: Mapping[str, Tensor], embeddings: Mapping[str, Tensor], *, prefix: str = ""
) -> dict[str, Tensor]:
    """Select the features of the samples `wanted` of each modality in `rows`, as arguments of `logits`."""
    return {f"{name}_features": _at(embeddings[f"{prefix}{name}"], at, wanted) for name, at in rows.items()}


def _mean_per_sample(features: Tensor, rows: Tensor, samples: int) -> Tensor:
    """Average the features `[n, D]` of each sample; `[samples, D]`, NaN for a sample without any."""
    total = features.new_zeros((samples, features.shape[1])).index_add_(0, rows.to(features.device), features)
    counts = torch.bincount(rows, minlength=samples).to(features.device)
    return total / counts[:, None]


def _agreement(features: Tensor) -> Tensor:
    """Return each sample's mean cosine similarity `[B]` between its modalities; NaN for a single modality."""
    given = list(features)
    cosines = [(a * b).sum(dim=1) for i, a in enumerate(given) for b in given[i + 1 :]]
    return torch.stack(cosines).nanmean(dim=0)
