"""Retrieval between modalities: audio by text, text by audio, and four other directions with images."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ignite_trainer.api.evaluation import FigureTable
from ignite_trainer.api.task import StepOutput, Task
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.features import CollectingEvaluation
from utils.evaluations.retrieval import PositivePairs, retrieval_metrics

Pairs = Literal["label", "pair"]

_ORDER = ("audio", "image", "text")


class Querying(CollectingEvaluation):
    """Rank the items of one modality by queries in another; `retrieval.py` defines the metrics.

    Audio and images belong to samples. Texts belong to the task's classes, one text per class (the task's
    `class_names` and `class_features`), unless the task embeds the samples' texts. If samples have captions,
    each caption is a query and an item. A query's positives are the items that share a label with it, or
    those of the same sample. Queries without a positive, such as a class without clips, are skipped; the
    column "queries" counts the other queries. A sample that lacks a modality is neither a query nor an item
    in this modality, and a modality that all samples lack has no row.

    The table has one row per direction, e.g. "audio -> text" if audio queries texts, with the columns P@1,
    R@k for each k, mAP, mAP@k for the largest k, and medR. Where a query has several positives, hit@k for
    each k above 1 says whether any of them is among the first k, which others call R@k. The table also has
    the expected values for a random ranking of N items with P positives: "P@1 by chance", P / N, and "R@k by
    chance", k / N for the smallest k.

    Args:
        k: ranks, counted from 1.
        pairs: positives between modalities of samples: "label" for all items that share a label, "pair" for
            the same sample only.
        directions: directions to measure, such as ["text -> audio"]; None for all.
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

    def prepare(self, model: nn.Module, task: Task, *, test: Any) -> None:
        """Check that the data set has labels, unless samples are paired."""
        if self._pairs == "label" and not getattr(test, "class_names", None):
            raise ValueError(
                f'pairs is "label", but {type(test).__name__} has no class_names. Set it to "pair": then '
                "modalities of the same sample are positives."
            )
        super().prepare(model, task, test=test)
        self._task = task

    def start(self, model: nn.Module) -> None:
        """Discard the features from an earlier pass."""
        super().start(model)
        self._directions = ()

    def step(self, model: nn.Module, indices: Tensor, batch: Any, output: StepOutput) -> None:
        """Collect the features of a batch; raise ValueError if there is nothing to compare them with."""
        super().step(model, indices, batch, output)
        if not self._directions:
            modalities = {*(output.features or ()), *(["text"] if self._class_features is not None else [])}
            self._directions = self._choose_directions(modalities)

    def finish(self, folder: Path) -> FigureTable:  # noqa: ARG002
        """Compute the metrics of every direction."""
        sides = self._sides(self.table())
        present = [
            direction
            for direction in self._directions
            if self._wanted or all(len(sides[name].features) for name in direction.split(" -> "))
        ]
        if not present:
            raise ValueError("querying needs two modalities, but no sample has more than one of them.")
        return {direction: self._measure(direction, sides) for direction in present}

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
                f"querying needs two modalities, but the task embeds only {' and '.join(ordered)}, no images "
                "and no texts of the classes. Choose another task, or data with images."
            )
        impossible = [direction for direction in self._wanted or () if direction not in possible]
        if impossible:
            raise ValueError(
                f'directions has "{impossible[0]}", but there are only {", ".join(possible)}; remove it.'
            )
        return tuple(self._wanted or possible)

    def _sides(self, table: FeatureTable) -> dict[str, _Side]:
        sides = {
            kind: _with_modality(torch.from_numpy(features), table.labels, table.clips_of.get(kind))
            for kind, features in table.features.items()
        }
        texts = self._class_features
        if texts is not None and "text" not in sides:
            names = tuple(self._task.class_names)
            unknown = sorted({label for labels in table.labels for label in labels} - set(names))
            if unknown:
                raise ValueError(f'the label "{unknown[0]}" is not one of the task\'s {len(names)} classes.')
            labels = tuple((name,) for name in names)
            sides["text"] = _Side(texts.detach().float().cpu(), labels, samples=None)
        return sides

    def _measure(self, direction: str, sides: dict[str, _Side]) -> dict[str, float]:
        queries, items = (sides[name] for name in direction.split(" -> "))
        if self._pairs == "pair" and queries.samples is not None and items.samples is not None:
            positives = PositivePairs.by_label(queries.samples, items.samples)
        else:
            positives = PositivePairs(queries.labels, items.labels)
        try:
            found = retrieval_metrics(queries.features, items.features, positives, k=self._k)
        except ValueError as error:
            raise ValueError(f"{direction}: {error}") from error
        return {**found.values, **self._by_chance(positives), "queries": float(found.queries)}

    def _by_chance(self, positives: PositivePairs) -> dict[str, float]:
        """Return the expected metrics of a random ranking of the items."""
        counts = [len(positives.items_of(query)) for query in range(positives.query_count)]
        items = positives.item_count
        precision = statistics.fmean(count / items for count in counts if count)
        rank = min(self._k)
        return {"P@1 by chance": precision, f"R@{rank} by chance": min(1.0, rank / items)}


class _Side(NamedTuple):
    """The queries or the items of a retrieval.

    Attributes:
        features: normalised features, `[N, D]`.
        labels: labels of each query or item.
        samples: index of each query's or item's sample in the pass, int64 `[N]`, which captions of one sample
            share; None for class texts.
    """

    features: Tensor
    labels: tuple[tuple[str, ...], ...]
    samples: Tensor | None


def _with_modality(
    features: Tensor, labels: Sequence[tuple[str, ...]], clips: NDArray[np.int64] | None
) -> _Side:
    """Drop the samples that lack the modality, whose rows are NaN; `clips` has the samples of the rows."""
    present = features.isnan().any(dim=1).logical_not().nonzero().flatten()
    samples = present if clips is None else torch.from_numpy(clips)[present]
    return _Side(features[present], tuple(labels[sample] for sample in samples.tolist()), samples)
