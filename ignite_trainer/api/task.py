"""Interface for tasks, which compute the loss and the scores for a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.media import Exhibit
from ignite_trainer.api.randomness import SampleRandom

_MAX_EXAMPLES = 1000


class StepOutput(NamedTuple):
    """Output of a task's step.

    Attributes:
        y_pred: scores `[B, K]`, as in ignite's metrics.
        y: targets, int64 `[B]`, or 0/1 `[B, K]` if a sample can have several labels.
        loss: scalar to minimise; may be None in evaluation.
        features: L2-normalised embeddings by modality, for evaluations that compare embeddings: `[B, D]`,
            with NaN for a sample that lacks the modality, or `[n, D]` for a modality in `counts`.
        counts: number of embeddings of each sample, int64 `[B]`, for modalities of which a sample can have
            several, such as captions. Their rows are in the order of the samples. A task gives counts for the
            same modalities in every step.
    """

    y_pred: Tensor
    y: Tensor
    loss: Tensor | None = None
    features: Mapping[str, Tensor] | None = None
    counts: Mapping[str, Tensor] | None = None


class Task(ABC):
    """An objective for training a model, and its evaluation.

    A task receives the model and one batch at a time. The batch has the same type as the data set's samples,
    with every field collated (see `ignite_trainer.api.batch.collate`). It is already transformed, and on the
    model's device. If several processes train, each process receives its share of the batch, and the trainer
    combines the results. Unless the task is an `EmbeddingTask`, the loss must therefore be a mean over
    samples.

    Attributes:
        class_names: names of the columns of scores in evaluation, for reports; without names, reports show
            numbers.
        takes_unequal_lengths: whether evaluation steps accept samples of unequal length, as a `PaddedBatch`.
            Otherwise, transforms must give all samples the same length.
        gives_features: whether evaluation steps return features.
        other_models: models that the task uses besides the one to train or evaluate, once it is prepared.
            They are never saved; results name their weights.
        multilabel: whether targets in evaluation are 0/1 `[B, K]` rather than int64 `[B]`; None if unknown
            before the first step.
        random: random streams of the samples that the task is about to embed in training, one for each
            sample of the batch, such as for augmentation within the model. The trainer sets them before each
            training step, and before each chunk of it; they depend on the seed, the epoch and the sample. A
            task derives a stream for each purpose with `random.stream`. None otherwise, as in evaluation.
        scores_are_read: whether any metric reads the scores of training steps; set by the trainer. If not, a
            training step may return empty scores.
    """

    class_names: Sequence[str] = ()
    takes_unequal_lengths: bool = False
    gives_features: bool = False
    multilabel: bool | None = None
    other_models: Sequence[nn.Module] = ()
    random: SampleRandom | None = None
    scores_are_read: bool = True

    def prepare(self, model: nn.Module, *, train: Sized, test: Sized) -> None:  # noqa: B027
        """Check the model and both splits before the first step; raise an error if they are incompatible."""

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterable[Finding]:
        """Check each split for samples that would make a run fail or produce wrong results.

        Called after `prepare`, both by `--check` and by every run before any slow work. The method should not
        read all samples, but can read a few with `ignite_trainer.api.self_description.look_at`.

        Args:
            model: prepared model.
            train: training split; None if the run does not train.
            test: held-out split.
            train_is_scored: whether evaluation steps also score the training split, and need its targets.
                Passed only if False.

        Returns:
            Findings; an error among them prevents the run from starting.
        """
        del model, train, test, train_is_scored
        return ()

    def example_outputs(self) -> Sequence[StepOutput]:
        """Make synthetic outputs like those of evaluation steps, to test the metrics before a run.

        Returns:
            One output for each form of targets that the steps may return; empty if unknown.
        """
        classes = len(self.class_names)
        if not 0 < classes <= _MAX_EXAMPLES:
            return ()
        targets = torch.arange(classes)  # some metrics need a sample from each class
        several = functional.one_hot(targets, classes)
        scores = 0.5 * several + 0.5 / classes
        forms = {False: StepOutput(scores, targets), True: StepOutput(scores, several)}
        return list(forms.values()) if self.multilabel is None else [forms[self.multilabel]]

    def start_evaluation(self, model: nn.Module) -> None:  # noqa: B027
        """Compute values that all evaluation steps in a pass share, such as class embeddings."""

    def portray_sample(self, model: nn.Module, batch: Any) -> Sequence[Exhibit]:
        """Make images and recordings of a sample, for reports and the dashboard.

        Args:
            model: model, in train or eval mode; gradients are disabled.
            batch: batch of size 1, which may not be transformed yet.
        """
        del model, batch
        return ()

    def portray_model(self, model: nn.Module) -> Sequence[Exhibit]:
        """Make images that show what the model has learned since it was prepared."""
        del model
        return ()

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the differentiable loss, and the scores and targets for iteration metrics."""

    @abstractmethod
    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the scores and targets; called in eval mode, with gradients disabled."""


class EmbeddingTask(Task):
    """A task whose loss compares the embeddings in a whole batch with each other.

    A training step has two parts, `embed` and `compare`. The trainer can embed the batch in chunks, and embed
    each chunk again with gradients once the loss is known (see `Setup.chunk`). This yields the loss of the
    whole batch while using only the memory of one chunk.
    """

    @abstractmethod
    def embed(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Embed samples differentiably.

        Returns:
            Embeddings `[n, D]` by modality, with one row for each sample that has the modality, in the
            batch's order. Modalities that no sample has are omitted. A row may depend only on its own sample
            (except for batch norm in train mode), so that the embeddings of two batches can be concatenated.
        """

    def embed_targets(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Embed samples without gradients, as targets for `compare`; for example with another, frozen model.

        Unlike those of `embed`, these embeddings are computed only once in a step with `Setup.chunk`.

        Returns:
            Embeddings `[n, D]` as those of `embed`, but with other names; by default none.
        """
        del model, batch
        return {}

    @abstractmethod
    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the differentiable loss of a whole batch, and the scores and targets for iteration metrics.

        `embeddings` are those of `embed` and of `embed_targets`. The loss includes terms that depend only on
        parameters, such as penalties. If several processes share a batch, `embeddings` and `batch` contain
        the samples of all processes. Its list and numeric fields are complete; an array field becomes a
        `PartialBatch` without values that only records which samples have the field (see
        `ignite_trainer.api.batch.rows_with_field`).
        """

    def compare_part(
        self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any, own: slice
    ) -> StepOutput | None:
        """Return one process's part of the loss, or None if every process has to compute all of `compare`.

        The parts of all processes must sum to the loss of `compare`, including terms that depend only on
        parameters. A process can compare its own samples with all others, so that the work is divided.

        Args:
            model: model to train.
            embeddings: embeddings of the samples of all processes, as for `compare`.
            batch: samples of all processes, as for `compare`.
            own: rows of the batch that belong to this process.

        Returns:
            The part of the loss, and the scores and targets of the process's own samples; the trainer
            concatenates those of all processes.
        """
        del model, embeddings, batch, own
        return None

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the differentiable loss, and the scores and targets for iteration metrics."""
        embeddings = {**self.embed(model, batch), **self.embed_targets(model, batch)}
        return self.compare(model, embeddings, batch)
