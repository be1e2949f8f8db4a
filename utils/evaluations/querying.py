"""Retrieval between the modalities of a pass: audio by text, text by audio, and with images four more."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ignite_trainer.api.evaluation import Evaluation, FigureTable
from ignite_trainer.api.task import StepOutput, Task
from utils.evaluations.collecting import FeatureCollector
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.retrieval import PositivePairs, retrieval_metrics

Pairs = Literal["label", "pair"]

_ORDER = ("audio", "image", "text")


class Querying(Evaluation):
    """Rank the items of one modality by the queries of another, as `retrieval.py` defines the figures.

    Audio and images are those of the samples. Texts are the task's classes, one for each (its `class_names`
    and `class_features`), unless it embeds texts of samples. A query's positives are the items that share a
    label with it. Queries without one, such as a class without clip, are left out; the column "queries"
    counts the others. A sample that lacks a modality is neither query nor item of it; one that all samples
    lack has no row.

    Its table has a row for each direction, "audio -> text" where audio queries texts, with the columns P@1,
    R@k for each k, mAP, and mAP@k for the largest; and what a random ranking of N items, P of which are
    positives, is expected to reach: "P@1 by chance" P / N, "R@k by chance" k / N for the smallest k.

    Args:
        k: ranks, from 1.
        pairs: between what is of samples, audio, images and texts of samples, "label": all that share a label
            are positives; "pair": only the same sample is.
        directions: those to measure, such as ["text -> audio"]; None: all.
    """

    def __init__(
        self,
        *,
        k: Sequence[int] = (1, 5, 10),
        pairs: Pairs = "label",
        directions: Sequence[str] | None = None,
    ) -> None:
        ranks: object = k  # from JSON
        if (
            not isinstance(ranks, list | tuple)
            or not ranks
            or any(type(r) is not int or r < 1 for r in ranks)
        ):
            raise ValueError(f"k is {k}; a list of ranks, counted from 1, is expected.")
        if pairs not in ("label", "pair"):
            raise ValueError(f'pairs is "{pairs}"; allowed: label, pair.')
        if isinstance(directions, str) or not all(
            re.fullmatch(r"\w+ -> \w+", direction) for direction in directions or ()
        ):
            raise ValueError(f'directions is {directions}; a list such as ["audio -> text"] is expected.')
        self._k, self._pairs, self._wanted = tuple(k), pairs, directions
        self._directions: tuple[str, ...] = ()

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:  # noqa: ARG002 - the contract's
        """Take note of task and data set, which needs labels unless samples are paired."""
        if self._pairs == "label" and not getattr(test, "class_names", None):
            raise ValueError(
                f'pairs is "label", but {type(test).__name__} has no class_names. Set it to "pair": what '
                "is of the same sample is to be found."
            )
        self._task, self._collector = task, FeatureCollector(test, task)

    def start(self, model: nn.Module) -> None:  # noqa: ARG002
        """Forget the pass before."""
        self._collector.reset()
        self._directions = ()

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:  # noqa: ARG002
        """Keep the features of a batch; raise a ValueError if there is nothing to compare them with."""
        self._collector.add(indices, batch.labels, output.features)
        if not self._directions:
            modalities = {*(output.features or ()), *(["text"] if self._class_features is not None else [])}
            self._directions = self._choose_directions(modalities)

    def finish(self, folder: Path) -> FigureTable:  # noqa: ARG002
        """Compute the figures of every direction."""
        sides = self._sides(self._collector.table())
        there = [
            direction
            for direction in self._directions
            if self._wanted or all(len(sides[name].features) for name in direction.split(" -> "))
        ]
        if not there:
            raise ValueError("querying needs two modalities, but no sample has more than one of them.")
        return {direction: self._measure(direction, sides) for direction in there}

    @property
    def _class_features(self) -> Tensor | None:
        features: Tensor | None = getattr(self._task, "class_features", None)
        return features if features is not None and len(features) else None

    def _choose_directions(self, modalities: set[str]) -> tuple[str, ...]:
        ordered = [name for name in _ORDER if name in modalities] + sorted(modalities - set(_ORDER))
        possible = [
            f"{queries} -> {items}"
            for pair in itertools.combinations(ordered, 2)
            for queries, items in (pair, pair[::-1])
        ]
        if not possible:
            raise ValueError(
                f"querying needs two modalities, but the task embeds {' and '.join(ordered)} alone: neither "
                "images nor the texts of the classes. Choose another task, or data with images."
            )
        impossible = [direction for direction in self._wanted or () if direction not in possible]
        if impossible:
            raise ValueError(
                f'directions has "{impossible[0]}", but there are only {", ".join(possible)}; remove it.'
            )
        return tuple(self._wanted or possible)

    def _sides(self, table: FeatureTable) -> dict[str, _Side]:
        sides = {
            kind: _of_samples(torch.from_numpy(features), table.labels)
            for kind, features in table.features.items()
        }
        texts = self._class_features
        if texts is not None and "text" not in sides:
            names = tuple(self._task.class_names)
            unknown = sorted({label for labels in table.labels for label in labels} - set(names))
            if unknown:
                raise ValueError(f'the label "{unknown[0]}" is none of the {len(names)} classes of the task.')
            labels = tuple((name,) for name in names)
            sides["text"] = _Side(texts.detach().float().cpu(), labels, samples=None)
        return sides

    def _measure(self, direction: str, sides: dict[str, _Side]) -> dict[str, float]:
        queries, items = (sides[name] for name in direction.split(" -> "))
        if self._pairs == "pair" and queries.samples is not None and items.samples is not None:
            positives = PositivePairs.by_label(queries.samples, items.samples)
        else:
            positives = PositivePairs.by_label_sets(queries.labels, items.labels)
        try:
            found = retrieval_metrics(queries.features, items.features, positives, k=self._k)
        except ValueError as error:
            raise ValueError(f"{direction}: {error}") from error
        figures = {name: value for name, value in found.values.items() if not name.startswith("hit@")}
        return {**figures, **self._by_chance(positives), "queries": float(found.queries)}

    def _by_chance(self, positives: PositivePairs) -> dict[str, float]:
        """What a random order of the items is expected to reach."""
        counts = [len(positives.items_of(query)) for query in range(positives.query_count)]
        items = positives.item_count
        precision = statistics.fmean(count / items for count in counts if count)
        rank = min(self._k)
        return {"P@1 by chance": precision, f"R@{rank} by chance": min(1.0, rank / items)}


class _Side(NamedTuple):
    """One side of a retrieval: the queries, or the items searched.

    Attributes:
        features: normalised, `[N, D]`.
        labels: of each.
        samples: position in the pass of the sample that each is of, int64 `[N]`; None: they are of classes.
    """

    features: Tensor
    labels: tuple[tuple[str, ...], ...]
    samples: Tensor | None


def _of_samples(features: Tensor, labels: Sequence[tuple[str, ...]]) -> _Side:
    """Those of a table that are there: the row of a sample that lacks the modality is NaN."""
    there = features.isnan().any(dim=1).logical_not().nonzero().flatten()
    return _Side(features[there], tuple(labels[row] for row in there.tolist()), there)
