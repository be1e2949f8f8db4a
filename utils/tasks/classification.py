"""Supervised classification with a network that has one output per class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.batch import Mixed, field_values, rows_with_field
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.task import StepOutput
from model.esresnet import ESResNeXt, SpectrogramMasks
from utils.datasets.sample import Listing
from utils.tasks.clip_media import Portraits, ShowsAudio
from utils.tasks.labels import Classes, check_audio, check_labels, check_rate, check_samples
from utils.tasks.mixing import own_values
from utils.tasks.random_masks import RandomMasks


class Classification(ShowsAudio):
    """Cross-entropy over the classes, or binary cross-entropy per class for samples with several labels.

    The model maps audio `[B, C, T]` to logits `[B, classes]`. An `ESResNeXt` adds its wavelet-norm penalty to
    the loss. Samples without audio are excluded from the loss; a batch that has only such samples gets a zero
    gradient. In evaluation, their logits are 0.

    If a transform mixes samples, the targets of a mixture are the weighted mean of its samples' targets
    (arXiv 1710.09412); metrics by iteration compare the scores with the labels of the dominant sample.

    Args:
        multilabel: whether samples may have several labels; the scores of the classes are then independent.
        label_smoothing: share of the uniform distribution in the targets, 0..1 (arXiv 1512.00567, section 7).
            With `multilabel`, each class has a distribution over yes and no, so a target y becomes
            `(1 - label_smoothing) * y + label_smoothing / 2`.
        spectrogram_masks: masks of the spectrogram in training (SpecAugment, arXiv 1904.08779): the numbers
            of "time" and "frequency" masks, by default 0, and their maximum widths, "max_time" and
            "max_frequency", as shares of the axis, by default 0.1. Masked parts have the mean level of the
            clip's spectrogram, in dB. None for no masks.
    """

    def __init__(
        self,
        *,
        multilabel: bool = False,
        label_smoothing: float = 0.0,
        spectrogram_masks: Mapping[str, float] | None = None,
    ) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be between 0 and 1.")
        self._multilabel = multilabel
        self._label_smoothing = label_smoothing
        self.random_masks = RandomMasks.of(spectrogram_masks)
        self._classes = Classes([])

    def prepare(self, model: nn.Module, *, train: Any, test: Any) -> None:
        """Check the audio's units, and that the model has one output per class."""
        self._classes = Classes.of(train, test)
        self.class_names = tuple(self._classes.names)
        self.multilabel = self._multilabel
        self.portraits = Portraits.of(model, test)
        if self.random_masks:
            self.random_masks.check(model)
        check_audio(train)
        check_audio(test)
        if isinstance(model, ESResNeXt) and model.fc.out_features != len(self._classes):
            raise ValueError(
                f"Model.args.num_classes is {model.fc.out_features}, but the data set has "
                f"{len(self._classes)} classes."
            )

    def check(
        self,
        model: nn.Module,  # noqa: ARG002
        *,
        train: Any,
        test: Any,
        train_is_scored: bool = True,  # noqa: ARG002
    ) -> Iterator[Finding]:
        """Find samples with no label or several labels, and a sample rate that the weights do not expect."""
        yield from check_rate(test)
        yield from check_samples(train, test, self._check_sample)

    def _check_sample(self, sample: Listing, scored: bool) -> Iterator[Finding]:  # noqa: ARG002
        remedy = "set Task.args.multilabel to true"
        for finding in check_labels(sample, multilabel=self._multilabel, remedy=remedy):
            # multilabel also allows samples without a label, which are negatives for every class.
            yield replace(finding, severity="warning") if self._multilabel else finding

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return loss, scores and targets."""
        audio = field_values(batch.audio)
        if audio is None:  # nothing to learn from: a zero gradient
            parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
            nothing = self._score(parameter.new_zeros(0, len(self._classes)), [])
            return nothing._replace(loss=0.0 * parameter.sum())
        logits, penalty = _forward(model, audio, self.draw_masks(batch.audio))
        heard = rows_with_field(batch.audio, len(audio)).tolist()
        labels = [batch.labels[row] for row in heard]
        output = self._score(logits, own_values(labels))
        with record_function("step/loss"):
            targets = output.y
            if isinstance(labels[0], Mixed):
                targets = self._classes.mixed_targets(
                    labels, multilabel=self._multilabel, device=logits.device
                )
            if self._multilabel:
                smoothed = (1 - self._label_smoothing) * targets + self._label_smoothing / 2
                loss = F.binary_cross_entropy_with_logits(logits.float(), smoothed)
            else:
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=self._label_smoothing)
        return output._replace(loss=loss + penalty)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return scores and targets."""
        logits = torch.zeros(len(batch.labels), len(self._classes), device=next(model.parameters()).device)
        if batch.audio is not None:
            found = _forward(model, field_values(batch.audio))[0].float()
            if len(found) == len(logits):
                logits = found
            else:
                logits[rows_with_field(batch.audio, len(logits)).to(logits.device)] = found
        return self._score(logits, batch.labels)

    def _score(self, logits: Tensor, labels: list[list[str]]) -> StepOutput:
        targets = self._classes.targets(labels, multilabel=self._multilabel, device=logits.device)
        return StepOutput(logits.sigmoid() if self._multilabel else logits.softmax(dim=-1), targets)


def _forward(
    model: nn.Module, audio: Tensor, masks: SpectrogramMasks | None = None
) -> tuple[Tensor, Tensor | float]:
    if isinstance(model, ESResNeXt):
        # The units were checked before the run; a quiet batch is not an error.
        return model.forward_with_penalty(audio, check_units=False, masks=masks)
    return model(audio), 0.0
