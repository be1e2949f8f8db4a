"""The contract between the trainer and research code: what a step computes from a batch."""

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
    """What one step of a task gives the trainer.

    Attributes:
        y_pred: scores, `[B, K]`, as ignite's metrics take them.
        y: targets, int64 `[B]`, or 0/1 `[B, K]` where a sample can have several labels.
        loss: scalar to minimise; None in evaluation if the task has no such figure.
        features: embeddings `[B, D]`, L2-normalised, by what they are of; for evaluations that compare them.
    """

    y_pred: Tensor
    y: Tensor
    loss: Tensor | None = None
    features: Mapping[str, Tensor] | None = None


class Task(ABC):
    """What a model is trained for.

    A task sees the model and one batch at a time. A batch is the data set's sample type with every field
    collated (see `ignite_trainer.data.loader`), already augmented and on the model's device. Where several
    processes train, each has its part of a batch, and the trainer puts together what they compute: a loss is
    the mean over samples, or that of an `EmbeddingTask`.

    Attributes:
        class_names: of the columns of the scores in evaluation, for reports; empty: they go by number.
        takes_unequal_lengths: whether evaluation steps take samples of unequal length, as a `PaddedBatch`.
            Where they do not, transforms have to make them equally long.
        gives_features: whether evaluation steps give the features of their samples.
        multilabel: whether targets in evaluation are 0/1 `[B, K]`, as samples have several labels, or int64
            `[B]`; None: it is not known before the first step.
    """

    class_names: Sequence[str] = ()
    takes_unequal_lengths: bool = False
    gives_features: bool = False
    multilabel: bool | None = None

    def prepare(self, model: nn.Module, *, train: Sized, test: Sized) -> None:  # noqa: B027
        """Look at the model and both splits once, before the first step; raise on what cannot work."""

    def check(
        self, model: nn.Module, *, train: Any, test: Any, train_is_scored: bool = True
    ) -> Iterable[Finding]:
        """Find samples of both splits that a run would fail at, or misread.

        It is called after `prepare`, by every run before anything slow and by `--check`. Samples are not to
        be read whole: a few can be looked at with `ignite_trainer.api.self_description.look_at`.

        Args:
            model: the model.
            train: the training split; None where nothing is trained.
            test: the held-out split.
            train_is_scored: whether evaluation steps see the training split, too, and so need its targets. A
                run that evaluates the held-out split only says False, and otherwise leaves this out.

        Returns:
            Findings; errors end the run before it begins.
        """
        del model, train, test, train_is_scored
        return ()

    def example_outputs(self) -> Sequence[StepOutput]:
        """Make up scores and targets as evaluation steps give them, on which metrics are tried before a run.

        Returns:
            An output for each form that they may have; nothing if it is not known.
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
        """Compute what every evaluation step of one pass shares, such as class embeddings."""

    def portray_sample(self, model: nn.Module, batch: Any) -> Sequence[Exhibit]:
        """Show a sample to people, for reports and the dashboard.

        Args:
            model: in whichever mode it is; without gradient.
            batch: of that sample alone, transformed or not.
        """
        del model, batch
        return ()

    def portray_model(self, model: nn.Module) -> Sequence[Exhibit]:
        """Show people what the model has learned, beside what it was when it was prepared."""
        del model
        return ()

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss, with gradient, and what metrics by iteration are computed from."""

    @abstractmethod
    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return scores and targets; called in eval mode without gradient."""


class EmbeddingTask(Task):
    """A task whose loss compares the embeddings of a whole batch with each other.

    Its step is in two parts, so that the trainer can carry out the first for a part of a batch at a time, and
    once more with gradient when the loss is known (see `Setup.chunk`): then memory goes with the part, and
    the loss is that of the whole batch.
    """

    @abstractmethod
    def embed(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Embed samples, with gradient: all that needs the activations of the model.

        Returns:
            Embeddings by what they are of, `[n, D]`: a row for each sample of the batch that has such a
            thing, in their order. What no sample has may be left out. A row depends on its own sample alone
            (but for batch norm in train mode), so that the rows of two batches, one below the other, are
            those of both together.
        """

    @abstractmethod
    def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:
        """Return the loss of a whole batch, with gradient, and what metrics by iteration are computed from.

        To the loss belongs what depends on parameters alone, such as scales and penalties. The batch is not
        sent through the model again: where several processes share one, embeddings and batch are those of
        all of them, and of its fields lists and numbers are there, but of arrays only who has one (see
        `ignite_trainer.training.forward` and `ignite_trainer.api.batch.rows_of`).
        """

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss, with gradient, and what metrics by iteration are computed from."""
        return self.compare(model, self.embed(model, batch), batch)
