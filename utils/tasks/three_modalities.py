"""Audio, images and texts against each other, pair by pair, whatever of them a sample has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import EmbeddingTask, StepOutput
from model.audioclip import AudioCLIP
from model.losses import Positives, Reduction, combined, label_ids_of, normalised, pairwise_contrastive_loss
from utils.datasets.sample import Listing
from utils.tasks.clip_media import Portraits, ShowsAudio
from utils.tasks.clips import embed_clips
from utils.tasks.contrasting import audioclip_of, check_options, class_scores
from utils.tasks.labels import (
    SEVERAL,
    Classes,
    check_audio,
    check_labels,
    check_rate,
    check_samples,
)
from utils.tasks.modalities import Given
from utils.tasks.prompts import Prompts

Modality = Literal["audio", "image", "text"]
MODALITIES: tuple[Modality, ...] = ("audio", "image", "text")
_PAIRS: tuple[tuple[Modality, Modality], ...] = (("audio", "image"), ("audio", "text"), ("image", "text"))


class Contrastive(ShowsAudio, EmbeddingTask):
    """Bring audio, image and text of each sample close to each other, pair by pair of modalities.

    ```text
    sample 0   audio  image  text       audio-image: 0
    sample 1   audio         text       audio-text:  0, 1
    sample 2          image  text       image-text:  0, 2
    ```

    The loss of a pair is the contrastive one (arXiv 2106.13043, section 3) over the samples that have both;
    that of a batch is the mean over the pairs it has, plus the wavelet-norm penalty if there is audio. A
    sample's text is what describes it, or else its labels, joined with ", " in the template; what is too
    long for the text tower is cut short. Which towers learn is a matter of `Parameters`.

    In evaluation a sample's scores over the classes are those of `AudioTextContrastive`, of its audio, or
    else its image, or else its text. Where the data have no classes there is one figure for each sample: the
    mean cosine of its modalities.

    Args:
        template: around the labels of a sample, `{}` stands for them; of several the embeddings are averaged.
        modalities: those that are compared; others are left alone.
        positives: "diagonal": as published, equal labels in a batch are negatives of each other;
            "same_label": samples with the same set of labels, or else the same text, are all positives.
        reduction: over pairs of modalities, "mean"; "factorial", as published: their sum by n! for n pairs.
        class_texts: what texts say of a class instead of its name.
        window_samples: in evaluation, of a clip longer than this the embeddings of evenly spaced windows are
            averaged, and clips may differ in length. None: every clip goes through the tower as a whole.

    Attributes:
        class_names: of the data set, in the order of the scores.
        class_features: of the texts of the classes, normalised, float32 `[classes, D]`; of the evaluation
            that was started last.
    """

    gives_features = True

    def __init__(
        self,
        template: str | Sequence[str] = "{}",
        *,
        modalities: Sequence[Modality] = MODALITIES,
        positives: Positives = "diagonal",
        reduction: Reduction = "mean",
        class_texts: Mapping[str, str] | None = None,
        window_samples: int | None = None,
    ) -> None:
        check_options(positives=positives, reduction=reduction, window_samples=window_samples)
        if len(set(modalities)) < 2 or not set(modalities) <= set(MODALITIES):
            raise ValueError(
                f"modalities is {modalities}; two or three of {', '.join(MODALITIES)} are expected."
            )
        self._modalities = frozenset(modalities)
        self._prompts = Prompts(template, class_texts, shorten=True)
        self._descriptions = Prompts("{}", shorten=True)
        self._positives: Positives = positives
        self._reduction: Reduction = reduction
        self._window_samples = window_samples
        self.takes_unequal_lengths = window_samples is not None
        self._classes = Classes([])
        self.class_features = torch.empty(0)

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check model and data, and that every class name fits the text tower."""
        audioclip = audioclip_of(model, type(self))
        if getattr(train, "class_names", None):
            self._classes = Classes.of(train, test)
        self.class_names = tuple(self._classes.names)
        self.multilabel = audioclip.multilabel
        self.portraits = Portraits.of(audioclip.audio, test)
        check_audio(train)
        check_audio(test)
        self._prompts.check(audioclip, self.class_names)

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterator[Finding]:
        """Find samples whose labels cannot be scored, and texts too long for the text tower.

        Training needs no labels: a sample without a text and labels is compared by what else it has.
        """
        audioclip = audioclip_of(model, type(self))
        yield from check_rate(test)
        labels_too_long = self._prompts.too_long(audioclip)
        text_too_long = self._descriptions.too_long(audioclip)

        def check(sample: Listing, scored: bool) -> Iterator[Finding]:
            if scored and self.class_names and not audioclip.multilabel:
                yield from check_labels(sample, multilabel=False, remedy=SEVERAL)
            if "text" in self._modalities and sample.text:
                yield from text_too_long(sample.place, [sample.text])
            elif "text" in self._modalities:
                yield from labels_too_long(sample.place, sample.labels)

        yield from check_samples(
            train, test, check, train_is_scored=train_is_scored, with_classes=bool(self.class_names)
        )

    def example_outputs(self) -> Sequence[StepOutput]:
        """Make up outputs of evaluation steps; without classes they have one figure for each sample."""
        if self.class_names:
            return super().example_outputs()
        return [StepOutput(torch.ones(2), torch.zeros(2, dtype=torch.int64))]

    def start_evaluation(self, model: nn.Module) -> None:
        """Embed the texts of the classes."""
        if self.class_names:
            names = [[name] for name in self.class_names]
            self.class_features = self._prompts.encode(audioclip_of(model, type(self)), names)

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Embed what the samples have, normalised `[n, D]` each, a row for each sample that has it."""
        return self._embed(audioclip_of(model, type(self)), Given.of(batch, self._modalities))[0]

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss, and of the first pair which item of the batch each is closest to."""
        audioclip, given = audioclip_of(model, type(self)), Given.of(batch, self._modalities)
        penalty = audioclip.audio.wavelet_penalty() if "audio" in embeddings else None
        return self._compare(audioclip, embeddings, given, penalty)

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return what `compare` does, with the wavelets made once for the embeddings and the penalty."""
        audioclip, given = audioclip_of(model, type(self)), Given.of(batch, self._modalities)
        embeddings, penalty = self._embed(audioclip, given)
        return self._compare(audioclip, embeddings, given, penalty)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return class scores `[B, classes]`, targets, and features of all modalities.

        Of a modality that a sample lacks, its row of the features is NaN.
        """
        audioclip, given = audioclip_of(model, type(self)), Given.of(batch, self._modalities)
        features: dict[str, Tensor] = {}
        embeddings, _ = self._embed(audioclip, given, evaluate=True)
        like = next(iter(embeddings.values()))
        for name in (name for name in MODALITIES if name in self._modalities):
            features[name] = like.new_full((given.samples, like.shape[1]), torch.nan)
            if name in embeddings:
                features[name][given.rows[name].to(audioclip.device)] = embeddings[name]
        if not self.class_names:
            none = torch.zeros(given.samples, dtype=torch.int64, device=audioclip.device)
            return StepOutput(_agreement(features), none, features=features)
        scores = self._scores(audioclip, features)
        targets = self._classes.targets(
            given.labels, multilabel=audioclip.multilabel, device=audioclip.device
        )
        return StepOutput(scores, targets, features=features)

    def _scores(self, model: AudioCLIP, features: Mapping[str, Tensor]) -> Tensor:
        """Those of the first modality that a sample has, `[B, classes]`."""
        first = torch.stack(list(features.values()))  # [modalities, B, D], NaN where there is none
        there = first.isnan().any(dim=2).logical_not()
        chosen = first[there.int().argmax(dim=0), torch.arange(first.shape[1], device=first.device)]
        return class_scores(model, chosen, self.class_features)

    def _embed(
        self, model: AudioCLIP, given: Given, *, evaluate: bool = False
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Embed what is there; return the penalty too, if there is audio and no evaluation."""
        found: dict[str, Tensor] = {}
        penalty = None
        if given.audio is not None and evaluate:
            found["audio"] = embed_clips(model, given.audio, window_samples=self._window_samples)
        elif given.audio is not None:
            features, penalty = model.encode_audio_with_penalty(given.audio)
            found["audio"] = normalised(features)
        if given.image is not None:
            found["image"] = normalised(model.encode_image(given.image))
        if given.texts:
            found["text"] = self._embed_texts(model, given.texts)
        return found, penalty

    def _embed_texts(self, model: AudioCLIP, texts: Sequence[str | Sequence[str]]) -> Tensor:
        """Descriptions by themselves, lists of labels in the template, in their order."""
        described = [row for row, text in enumerate(texts) if isinstance(text, str)]
        labelled = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        parts = []
        for prompts, rows in ((self._descriptions, described), (self._prompts, labelled)):
            chosen = [texts[row] for row in rows]
            if rows:
                parts.append(
                    prompts.encode(model, [[text] if isinstance(text, str) else text for text in chosen])
                )
        order = torch.tensor([*described, *labelled]).argsort()
        return torch.cat(parts)[order.to(parts[0].device)]

    def _compare(
        self, model: AudioCLIP, embeddings: Mapping[str, Tensor], given: Given, penalty: Tensor | None
    ) -> StepOutput:
        with record_function("step/loss"):
            pairs = []
            for pair in _PAIRS:
                both = [name for name in pair if name in embeddings and name in given.rows]
                rows = given.shared(*pair) if len(both) == 2 else torch.empty(0)
                if not len(rows):
                    continue
                features = {
                    f"{name}_features": _at(embeddings[name], given.rows[name], rows) for name in pair
                }
                (logits,) = (found for found in model.logits(**features) if found is not None)
                pairs.append((logits, rows))
            losses = [self._loss(logits, given, rows) for logits, rows in pairs]
            # A batch without a pair has the gradient 0.
            loss = combined(losses, self._reduction) if losses else 0.0 * model.logit_scale_at
            if penalty is not None:
                loss = loss + penalty
        logits = pairs[0][0].detach() if pairs else torch.zeros(1, 1, device=model.device)
        return StepOutput(logits, torch.arange(len(logits), device=logits.device), loss)

    def _loss(self, logits: Tensor, given: Given, rows: Tensor) -> Tensor:
        if self._positives == "diagonal":
            return pairwise_contrastive_loss([logits])
        label_ids = label_ids_of(given.identities(rows))
        return pairwise_contrastive_loss([logits], positives="same_label", label_ids=label_ids)


def _at(features: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """Of features of the samples `rows` those of the samples `wanted`, all of which are there."""
    if len(rows) == len(wanted):
        return features
    return features[torch.searchsorted(rows, wanted).to(features.device)]


def _agreement(features: Mapping[str, Tensor]) -> Tensor:
    """The mean cosine of each sample's modalities, `[B]`; not a number if it has one alone."""
    given = list(features.values())
    cosines = [(a * b).sum(dim=1) for i, a in enumerate(given) for b in given[i + 1 :]]
    return torch.stack(cosines).nanmean(dim=0)
