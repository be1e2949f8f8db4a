"""Conversion of labels to targets, and checks of a data set before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ignite_trainer.api.batch import Mixed
from ignite_trainer.api.findings import Finding
from ignite_trainer.api.self_description import look_at, samples_to_check
from utils.datasets.sample import Listing

SAMPLE_RATE = 44100
"""Sample rate that the released weights were trained with, in Hz."""

SEVERAL = "set Model.args.multilabel to true"
"""Remedy that allows several labels in tasks that compare embeddings."""

_SAMPLES_CHECKED = 8  # number of samples to check, unless all of them are quiet


class Classes:
    """The classes of a data set, by number and by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of(cls, *datasets: Any) -> Classes:
        """Return the classes shared by all these data sets.

        Raises:
            ValueError: A data set has no `class_names`, or the `class_names` differ.
        """
        for dataset in datasets:
            if not getattr(dataset, "class_names", None):
                unused = getattr(dataset, "unused_columns", "")
                raise ValueError(
                    f"{type(dataset).__name__} has no class_names; this task needs the list of its labels."
                    + f" Unused columns: {unused}. If one holds them, name it: --Dataset.args.labels COLUMN."
                    * bool(unused)
                    + " To train on captions, use utils.tasks.Contrastive: see protocols/own-pairs.json."
                    * getattr(dataset, "described", False)
                )
        names = list(datasets[0].class_names)
        if any(list(dataset.class_names) != names for dataset in datasets):
            raise ValueError("The training split and the held-out split have different class_names.")
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def targets(self, labels: Sequence[Sequence[str]], *, multilabel: bool, device: torch.device) -> Tensor:
        """Convert the labels of a batch to targets.

        Returns:
            The class number of each sample's only label, int64 `[B]`; if `multilabel`, 0/1 `[B, classes]`.

        Raises:
            ValueError: A label is not a class, or a sample does not have exactly one label and `multilabel`
                is false.
        """
        for label in (label for sample in labels for label in sample if label not in self._numbers):
            raise ValueError(f'The label "{label}" is not among the {len(self)} class_names of the data set.')
        numbers = [[self._numbers[label] for label in sample] for sample in labels]
        if multilabel:
            targets = torch.zeros(len(numbers), len(self), dtype=torch.int64)
            for row, sample in zip(targets, numbers, strict=True):
                row[sample] = 1
            return targets.to(device, non_blocking=True)
        wrong = next((list(sample) for sample in labels if len(sample) != 1), None)
        if wrong is not None:
            raise ValueError(f"A sample has the labels {wrong}; without multilabel it must have exactly one.")
        return torch.tensor([sample[0] for sample in numbers]).to(device, non_blocking=True)

    def mixed_targets(self, mixtures: Sequence[Mixed], *, multilabel: bool, device: torch.device) -> Tensor:
        """Convert the labels of mixed samples to targets: the weighted mean of the samples' 0/1 targets.

        Returns:
            Targets float32 `[B, classes]`; unless `multilabel`, those of a mixture sum to 1.

        Raises:
            ValueError: As for `targets`.
        """
        labels = [value for mixture in mixtures for value in mixture.values]
        each = self.targets(labels, multilabel=multilabel, device=torch.device("cpu"))
        if not multilabel:
            each = functional.one_hot(each, len(self))
        rows = [row for row, mixture in enumerate(mixtures) for _ in mixture.values]
        weights = torch.tensor([weight for mixture in mixtures for weight in mixture.weights])
        targets = torch.zeros(len(mixtures), len(self)).index_add_(
            0, torch.tensor(rows), weights[:, None] * each
        )
        return targets.to(device, non_blocking=True)


def check_audio(dataset: Any) -> None:
    """Check the audio of the first samples for common mistakes; the run deals with unreadable samples.

    A recording can be as quiet as one 16-bit step, so the units are judged by all these samples together: at
    least one sample must be louder than 1 or have integer values, as decoded files do. If all samples are
    quiet, further samples are checked.

    Raises:
        ValueError: The audio is not `[C, T]`, or seems to be in [-1, 1] instead of 16-bit units.
    """
    quiet: tuple[int, float] | None = None
    for number, index in enumerate(samples_to_check(len(dataset))):
        if number >= _SAMPLES_CHECKED and quiet is None:
            return
        try:
            given = look_at(dataset, index)[0]
        except (OSError, EOFError, ValueError, RuntimeError):
            continue
        if given is None:
            continue
        audio = torch.as_tensor(given)
        if audio.dim() != 2:
            raise ValueError(
                f"Sample {index} has audio of shape {list(audio.shape)}; expected [C, T]: channels, samples."
            )
        peak = float(audio.abs().max()) if audio.numel() else 0.0
        if peak > 1.0 or (peak and bool((audio == audio.round()).all())):
            return
        if peak and quiet is None:
            quiet = index, peak
    if quiet is not None:
        raise ValueError(
            f"Sample {quiet[0]} has a peak of {quiet[1]:.3g}, and no other sample is louder than 1: the "
            "audio looks like [-1, 1], but 16-bit units (-32768..32767) are expected. Multiply by 32768 in "
            "the data set."
        )


def check_samples(
    train: Any,
    test: Any,
    check: Callable[[Listing, bool], Iterable[Finding]],
    *,
    train_is_scored: bool = True,
    with_classes: bool = True,
) -> Iterator[Finding]:
    """Check the classes, and all samples and labels that the data sets list without reading files.

    Args:
        train: training split; None if nothing is trained.
        test: held-out split; may be the same as `train`.
        check: function that finds faults in one sample; its second argument tells whether evaluation scores
            the sample.
        train_is_scored: whether evaluation also scores the training split.
        with_classes: whether samples have classes.
    """
    trained: set[str] | None = None
    unknown = set[str]()
    for dataset in (train, test) if train is not test else (train,):
        known: set[str] | None = dataset.labels() if callable(getattr(dataset, "labels", None)) else None
        labels = set(known or ())
        scored = train_is_scored or dataset is test
        for sample in _listed(dataset):
            yield from check(sample, scored)
            labels.update(sample.labels)
        if with_classes and labels:
            unknown |= labels.difference(dataset.class_names)
        if dataset is train and (known is not None or callable(getattr(dataset, "listing", None))):
            trained = labels
    for label in sorted(unknown):
        yield Finding(
            severity="error",
            what="A label of the data set is not among its class_names.",
            where=label,
            remedy="Correct it, or add it to the classes (of shards: with `python -m utils.shards index`).",
        )
    if not with_classes or trained is None:
        return
    if len(train.class_names) == 1:
        yield Finding(
            severity="warning",
            what="There is only one class, so every prediction is right.",
            where=train.class_names[0],
            remedy="Add clips of other classes.",
        )
    for name in train.class_names:
        if name not in trained:
            yield Finding(
                severity="warning",
                what="A class has no clip to train on.",
                where=name,
                remedy="Hold out other clips, or add some; scores of this class are guesses.",
            )


def _listed(dataset: Any) -> Iterable[Listing]:
    """List the samples, or representative samples, that a data set knows without reading files."""
    if callable(some := getattr(dataset, "listings", None)):
        found: Iterable[Listing] = some()
        return found
    if callable(listing := getattr(dataset, "listing", None)):
        return (listing(index) for index in range(len(dataset)))
    return ()


def check_rate(dataset: Any) -> Iterator[Finding]:
    """Find a sample rate that differs from the released weights'."""
    rate = getattr(dataset, "sample_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        what = f"The data set is sampled at {rate} Hz; the released weights expect {SAMPLE_RATE}."
        yield Finding(severity="warning", what=what)


def check_labels(sample: Listing, *, multilabel: bool, remedy: str) -> Iterator[Finding]:
    """Find a fault in a sample's labels: no label, or several.

    Args:
        sample: listing of the sample.
        multilabel: whether a sample may have several labels.
        remedy: advice on how to allow several labels.
    """
    if not sample.labels:
        yield Finding(
            severity="error",
            what="A sample has no label.",
            where=sample.place,
            remedy="Give it one, or remove it from the data set.",
        )
    elif len(sample.labels) > 1 and not multilabel:
        yield Finding(
            severity="error",
            what="A sample has several labels, but only one is allowed.",
            where=f"{sample.place} ({', '.join(sample.labels)})",
            remedy=f"Keep one of them, or {remedy}.",
        )
