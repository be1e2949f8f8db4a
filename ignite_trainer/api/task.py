"""The interface of tasks: what a step computes from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ignite_trainer.api.findings import Finding
from ignite_trainer.api.media import Exhibit

_MOST_EXAMPLES = 1000


class StepOutput(NamedTuple):
    """Output of one step of a task.

    Attributes:
        y_pred: scores `[B, K]`, as in ignite's metrics.
        y: targets, int64 `[B]`, or 0/1 `[B, K]` if a sample can have several labels.
        loss: scalar to minimise; may be None in evaluation.
        features: L2-normalised embeddings `[B, D]` by modality, for evaluations that compare them.
    """

    y_pred: Tensor
    y: Tensor
    loss: Tensor | None = None
    features: Mapping[str, Tensor] | None = None


class Task(ABC):
    """What a model is trained for.

    A task sees the model and one batch at a time. A batch has the type of the data set's samples, with every
    field collated (see `ignite_trainer.data.loader`), and is augmented and on the model's device. If several
    processes train, each has a part of the batch, and the trainer combines their results: the loss must be a
    mean over samples, or that of an `EmbeddingTask`.

    Attributes:
        class_names: names of the columns of scores in evaluation, for reports; if empty, numbers are shown.
        takes_unequal_lengths: whether evaluation steps take samples of unequal length, as a `PaddedBatch`.
            Otherwise, transforms must make them equally long.
        gives_features: whether evaluation steps return features.
        multilabel: whether targets in evaluation are 0/1 `[B, K]` instead of int64 `[B]`; None if unknown
            before the first step.
    """

    class_names: Sequence[str] = ()
    takes_unequal_lengths: bool = False
    gives_features: bool = False
    multilabel: bool | None = None

    def prepare(self, model: nn.Module, *, train: Sized, test: Sized) -> None:  # noqa: B027
        """Check the model and both splits before the first step; raise an error if they do not fit."""

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterable[Finding]:
        """Find samples of both splits on which a run would fail, or go wrong.

        Called after `prepare`, by `--check` and by every run before anything slow. It should not read all
        samples, but can read a few with `ignite_trainer.api.self_description.look_at`.

        Args:
            model: the model.
            train: the training split; None if nothing is trained.
            test: the held-out split.
            train_is_scored: whether evaluation steps also see the training split, and need its targets. Only
                passed if False.

        Returns:
            Findings; errors end the run before it begins.
        """
        del model, train, test, train_is_scored
        return ()

    def example_outputs(self) -> Sequence[StepOutput]:
        """Make up scores and targets like those of evaluation steps, to try metrics before a run.

        Returns:
            An output for each form that they may have; empty if unknown.
        """
        classes = len(self.class_names)
        if not 0 < classes <= _MOST_EXAMPLES:
            return ()
        targets = torch.arange(classes)  # some metrics need a sample of each class
        several = functional.one_hot(targets, classes)
        scores = 0.5 * several + 0.5 / classes
        forms = {False: StepOutput(scores, targets), True: StepOutput(scores, several)}
        return list(forms.values()) if self.multilabel is None else [forms[self.multilabel]]

    def start_evaluation(self, model: nn.Module) -> None:  # noqa: B027
        """Compute what all evaluation steps of a pass share, such as class embeddings."""

    def portray_sample(self, model: nn.Module, batch: Any) -> Sequence[Exhibit]:
        """Make pictures and recordings of a sample, for reports and the dashboard.

        Args:
            model: the model in any mode; without gradient.
            batch: a batch of this sample, transformed or not.
        """
        del model, batch
        return ()

    def portray_model(self, model: nn.Module) -> Sequence[Exhibit]:
        """Make pictures of what the model has learned since it was prepared."""
        del model
        return ()

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss, with gradient, and the scores and targets for metrics by iteration."""

    @abstractmethod
    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return scores and targets; called in eval mode, without gradient."""


class EmbeddingTask(Task):
    """A task whose loss compares the embeddings of a whole batch with each other.

    Its step has two parts. The trainer can embed one chunk of the batch at a time, and again with gradient
    once the loss is known (see `Setup.chunk`): the loss of the whole batch, with the memory of a chunk.
    """

    @abstractmethod
    def embed(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Embed samples, with gradient.

        Returns:
            Embeddings `[n, D]` by modality: a row for each sample of the batch that has it, in order; without
            modalities that no sample has. A row may only depend on its own sample (except for batch norm in
            train mode), so that embeddings of two batches can be concatenated.
        """

    @abstractmethod
    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss of a whole batch, with gradient, and scores and targets for metrics by iteration.

        The loss includes terms that only depend on parameters, such as penalties. If several processes share
        a batch, embeddings and batch are those of all of them; the batch then has all lists and numbers, but
        of arrays only their rows (see `ignite_trainer.training.forward` and `api.batch.rows_of`).
        """

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss, with gradient, and the scores and targets for metrics by iteration."""
        return self.compare(model, self.embed(model, batch), batch)
