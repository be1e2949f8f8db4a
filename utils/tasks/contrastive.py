"""Audio against text: the published fine-tuning, and zero-shot scores over the class names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import EmbeddingTask, StepOutput
from model.audioclip import AudioCLIP
from model.losses import Positives, Reduction, label_ids_of, normalised, sample_weights
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
    check_sound,
)
from utils.tasks.prompts import Prompts


class AudioTextContrastive(ShowsAudio, EmbeddingTask):
    """Bring each clip's audio close to the text of its labels.

    The loss is the contrastive one over the batch (arXiv 2106.13043, section 3) plus the wavelet-norm
    penalty. In evaluation a clip's scores over the classes are `softmax(scale * cosine)` of its audio and
    the class names; for a multilabel model, `sigmoid(cosine - 0.5)`. Evaluated without training this is
    zero-shot classification.

    While the text tower is frozen a text is encoded once in a run.

    Args:
        template: around the labels of a sample, `{}` stands for them; of several the embeddings are averaged.
        positives: "diagonal": as published, equal labels in a batch are negatives of each other;
            "same_label": they are all positives.
        reduction: over pairs of modalities, "factorial" as published, or "mean": the same for one pair.
        class_weights: weight of each class by name; a sample weighs the sum over its labels. None: all alike.
        class_texts: what texts say of a class instead of its name, such as {"can opening": "opening a can"}.
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
        positives: Positives = "diagonal",
        reduction: Reduction = "factorial",
        class_weights: Mapping[str, float] | None = None,
        class_texts: Mapping[str, str] | None = None,
        window_samples: int | None = None,
    ) -> None:
        check_options(positives=positives, reduction=reduction, window_samples=window_samples)
        self._prompts = Prompts(template, class_texts)
        self._positives: Positives = positives
        self._reduction: Reduction = reduction
        self._class_weights = class_weights
        self._window_samples = window_samples
        self.takes_unequal_lengths = window_samples is not None
        self._classes = Classes([])
        self.class_features = torch.empty(0)

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check model and data, and that every class name fits the text tower."""
        audioclip = audioclip_of(model, type(self))
        self._classes = Classes.of(train, test)
        self.class_names = tuple(self._classes.names)
        self.multilabel = audioclip.multilabel
        self.portraits = Portraits.of(audioclip.audio, test)
        check_audio(train)
        check_audio(test)
        if self._class_weights:
            sample_weights([[name] for name in self._classes.names], self._class_weights)
        self._prompts.check(audioclip, self.class_names)

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterator[Finding]:
        """Find samples without a sound or a label, or with too many, and labels too long for the tower.

        In training several labels are one text; only scores need a single one.
        """
        audioclip = audioclip_of(model, type(self))
        yield from check_rate(test)
        too_long = self._prompts.too_long(audioclip)

        def check(sample: Listing, scored: bool) -> Iterator[Finding]:
            yield from check_sound(sample)
            yield from check_labels(sample, multilabel=audioclip.multilabel or not scored, remedy=SEVERAL)
            yield from too_long(sample.place, sample.labels)

        yield from check_samples(train, test, check, train_is_scored=train_is_scored)

    def start_evaluation(self, model: nn.Module) -> None:
        """Embed the texts of the classes."""
        self.class_features = self._prompts.encode(
            audioclip_of(model, type(self)), [[name] for name in self.class_names]
        )

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Embed the audio of the samples and the text of their labels, normalised `[B, D]`."""
        return self._embed(audioclip_of(model, type(self)), batch)[0]

    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss, and as scores which text of the batch each clip is closest to."""
        audioclip = audioclip_of(model, type(self))
        return self._compare(audioclip, embeddings, batch, penalty=audioclip.audio.wavelet_penalty())

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return what `compare` does, with the wavelets made once for the embeddings and the penalty."""
        audioclip = audioclip_of(model, type(self))
        embeddings, penalty = self._embed(audioclip, batch)
        return self._compare(audioclip, embeddings, batch, penalty=penalty)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return class scores `[B, classes]`, targets, and embeddings of the audio and of images if given."""
        audioclip = audioclip_of(model, type(self))
        features = {"audio": embed_clips(audioclip, batch.audio, window_samples=self._window_samples)}
        if batch.image is not None:
            features["image"] = normalised(audioclip.encode_image(batch.image))
        scores = class_scores(audioclip, features["audio"], self.class_features)
        targets = self._classes.targets(
            batch.labels, multilabel=audioclip.multilabel, device=audioclip.device
        )
        return StepOutput(scores, targets, features=features)

    def _embed(self, model: AudioCLIP, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        features, penalty = model.encode_audio_with_penalty(batch.audio)
        audio = normalised(features)
        return {"audio": audio, "text": self._prompts.encode(model, batch.labels)}, penalty

    def _compare(
        self, model: AudioCLIP, embeddings: Mapping[str, Tensor], batch: Any, *, penalty: Tensor
    ) -> StepOutput:
        weights = sample_weights(batch.labels, self._class_weights) if self._class_weights else None
        same_label = self._positives == "same_label"
        with record_function("step/loss"):
            logits = model.logits(audio_features=embeddings["audio"], text_features=embeddings["text"])
            loss = model.loss(
                logits,
                penalty=penalty,
                sample_weight=weights,
                positives=self._positives,
                label_ids=label_ids_of(batch.labels) if same_label else None,
                reduction=self._reduction,
            )
        assert logits.audio_text is not None
        own = torch.arange(len(logits.audio_text), device=logits.audio_text.device)
        return StepOutput(logits.audio_text, own, loss)
