"""Retrieval metrics: precision, recall and mAP of rankings by cosine, from embeddings and matching labels.

For a query with P positives, let rel(i) be 1 if the item at rank i (from 1) is a positive and 0 otherwise,
and let prec(i) = (rel(1) + ... + rel(i)) / i. The query's metrics are

======== ============================================ ================================================
P@1      rel(1)                                       precision at 1
R@k      (rel(1) + ... + rel(k)) / P                  recall: fraction of the positives found
mAP      sum of prec(i) rel(i) over all i, / P        average precision of the full ranking
mAP@k    sum of prec(i) rel(i) over i <= k,           average precision of the first k, divided by that
         / min(k, P)                                  of a perfect ranking, so its maximum is 1 too
hit@k    1 if rel(1) + ... + rel(k) > 0, else 0       whether any positive is among the first k
======== ============================================ ================================================

and the result contains their means over the queries that have a positive. Recall is undefined for the other
queries, which are skipped. medR is the median over the queries of the rank of the first positive; of an even
number of queries, the mean of the middle two.

hit@1 is P@1. With one positive per query, hit@k is R@k, so the result has hit@k only if a query has several
positives, for k above 1. Papers that rank the captions of a sound call it R@k. The figures of DCASE's
language-based audio retrieval, R@1, R@5, R@10 and mAP@10 of sounds for a caption, have one positive per query
and equal those here.

P@1 and R@1 differ if there are several positives: a query's R@1 is its P@1 divided by P, so it cannot exceed
1 / P. The querying tables in arXiv 2106.13043 list both, and they differ. With one positive per query, they
agree.

Ties. Items with equal scores have no order, so each metric is its expected value over all orders of tied
items, in closed form (McSherry and Najork, "Computing information retrieval performance measures efficiently
in the presence of tied scores", ECIR 2008). This equals the average over all shuffles of the items before
sorting. A query's rank in medR is the expected rank of its first positive: with n items ranked higher, and p
positives among the g items that tie at the first positive, n + (g + 1) / (p + 1). The metrics do not depend
on the order of the items or on the sorting algorithm, and a model that returns the same embedding for
everything scores at chance level, not 1 or 0. Ties are common: in ESC-50, forty clips have the same text.

Equality. Embeddings, including float64, are rounded to multiples of 2^-26 (1.5e-8, which is below float32's
error in a sum of 1024 products), and scores are then computed exactly. Equal items therefore tie exactly, and
the order does not depend on device, threads or chunks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from utils.evaluations.ranking import RankCounts, count_ranks, round_to_grid

NORM_TOLERANCE = 1e-3
"""Allowed deviation of an embedding's norm from 1."""

# Number of scores per chunk: at 8 bytes each, a dozen arrays of this size take less than 1 GiB.
_SCORES_AT_ONCE = 2**23


class RetrievalResult(NamedTuple):
    """Metrics of one direction of retrieval, by name, and the number of queries with a positive."""

    values: dict[str, float]
    queries: int


class PositivePairs:
    """The positives of each query: the items that share a label with it.

    Stores the labels of each query and the items of each label, which avoids a matrix of queries by items.
    Swap the arguments for the other direction of retrieval. A query or an item may have no label.

    Example:
        >>> pairs = PositivePairs([["dog"], ["rain"]], [["rain", "wind"], ["dog"], ["dog"]])
        >>> [pairs.items_of(query).tolist() for query in range(2)]
        [[1, 2], [0]]
    """

    def __init__(
        self, query_labels: Sequence[Collection[Hashable]], item_labels: Sequence[Collection[Hashable]]
    ) -> None:
        if any(isinstance(labels, str) for labels in (*query_labels, *item_labels)):
            raise ValueError("A set of labels is a string; give a collection of strings, or use by_label.")
        self._labels_of_query = [tuple(labels) for labels in query_labels]
        items_of_label: dict[Hashable, list[int]] = {}
        for item, labels in enumerate(item_labels):
            for label in set(labels):
                items_of_label.setdefault(label, []).append(item)
        self._items_of_label = {label: np.array(items, np.int64) for label, items in items_of_label.items()}
        self.query_count = len(query_labels)
        self.item_count = len(item_labels)

    @classmethod
    def by_label(
        cls, query_labels: Tensor | Iterable[Hashable], item_labels: Tensor | Iterable[Hashable]
    ) -> PositivePairs:
        """Match queries and items with equal labels; each has exactly one, e.g. a class number."""
        sides = [
            labels.tolist() if isinstance(labels, Tensor) else labels
            for labels in (query_labels, item_labels)
        ]
        return cls(*([(label,) for label in labels] for labels in sides))

    def items_of(self, query: int) -> NDArray[np.int64]:
        """Return the indices of a query's positives, ascending and without duplicates."""
        known = self._items_of_label
        found = [known[label] for label in self._labels_of_query[query] if label in known]
        if len(found) == 1:
            return found[0]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


@torch.no_grad()
def retrieval_metrics(
    queries: Tensor, items: Tensor, positives: PositivePairs, *, k: Sequence[int] = (1, 5, 10)
) -> RetrievalResult:
    """Rank all items for each query by cosine similarity, and evaluate the ranks of the positives.

    The module's docstring defines the metrics.

    Args:
        queries: L2-normalised embeddings `[Nq, D]`, float32 or float64.
        items: L2-normalised embeddings `[Ni, D]`, float32 or float64, on the same device.
        positives: positives of the Nq queries among the Ni items.
        k: ranks for R@k, at least 1, possibly above Ni; mAP@k uses the largest rank.

    Returns:
        "P@1"; "R@k" for each k; "mAP"; "mAP@k" for the largest k; "hit@k" for each k above 1, if a query has
        several positives; "medR".

    Raises:
        ValueError: The embeddings differ in length, are not normalised or do not match `positives` in number;
            there is nothing to rank; or no query has a positive.

    Example:
        Two of three sounds rank their own text first, and the third ranks it last.

        >>> import torch
        >>> texts = torch.eye(3)
        >>> sounds = texts[[0, 1, 0]]
        >>> result = retrieval_metrics(sounds, texts, PositivePairs.by_label("abc", "abc"), k=[1, 3])
        >>> {name: round(value, 3) for name, value in result.values.items() if name in ("R@1", "R@3", "mAP")}
        {'R@1': 0.667, 'R@3': 1.0, 'mAP': 0.806}
    """
    _check_embeddings(queries, items)
    if (positives.query_count, positives.item_count) != (len(queries), len(items)):
        raise ValueError(
            f"`positives` describes {positives.query_count} queries and {positives.item_count} items, but "
            f"there are embeddings of {len(queries)} queries and {len(items)} items."
        )
    chunk = max(1, _SCORES_AT_ONCE // len(items))
    exact_items = round_to_grid(items)
    harmonic = _harmonic_numbers(len(items))

    values: dict[str, list[float]] = {}
    several = False
    for start in range(0, len(queries), chunk):
        found = [positives.items_of(query) for query in range(start, min(start + chunk, len(queries)))]
        kept = [row for row, row_items in enumerate(found) if len(row_items)]
        if not kept:
            continue
        several |= any(len(row_items) > 1 for row_items in found)
        exact_queries = round_to_grid(queries[start : start + chunk][kept])
        counts = count_ranks(exact_queries, exact_items, [found[row] for row in kept])
        for name, figures in _figures(counts, k=k, harmonic=harmonic).items():
            values.setdefault(name, []).extend(figures.tolist())
    if not values:
        raise ValueError(
            f"None of the {len(queries)} queries has a positive among the {len(items)} items: they share no "
            "label. Are the labels of both spelt alike?"
        )
    counted = len(values["P@1"])
    # fsum is exact, so the order of the queries does not matter either.
    first_ranks = values.pop("rank of the first")
    means = {
        name: math.fsum(figures) / counted
        for name, figures in values.items()
        if several or not name.startswith("hit@")
    }
    return RetrievalResult({**means, "medR": statistics.median(first_ranks)}, counted)


def _figures(counts: RankCounts, *, k: Sequence[int], harmonic: Tensor) -> dict[str, Tensor]:
    """Compute each query's expected metrics, by name, float64 `[Q]`."""
    largest = max(k)
    positives = counts.valid.sum(dim=1)
    # The best positives come first, and most columns are beyond every k.
    width = max(1, int((counts.higher < largest).sum(dim=1).max()))
    near = RankCounts(*(column[:, :width] for column in counts))

    best = RankCounts(*(column[:, 0] for column in counts))
    figures = {"P@1": (best.higher == 0) * best.positives_tied.double() / best.tied}
    for rank in k:
        found = _within(near, rank).double() / near.tied
        figures[f"R@{rank}"] = _sum_over_positives(found, near) / positives
    precision = _precision(counts, len(harmonic) - 1, harmonic)
    figures["mAP"] = _sum_over_positives(precision, counts) / positives
    precision = _precision(near, largest, harmonic)
    figures[f"mAP@{largest}"] = _sum_over_positives(precision, near) / positives.clamp(max=largest)
    for rank in k:
        if rank > 1:
            figures[f"hit@{rank}"] = 1.0 - _probability_of_no_hit(best, rank)
    figures["rank of the first"] = best.higher + (best.tied + 1).double() / (best.positives_tied + 1)
    return figures


def _probability_of_no_hit(best: RankCounts, rank: int) -> Tensor:
    """Compute the probability that no positive is among the first `rank` places; float64 `[Q]`.

    Of the g items that tie at the first positive, p are positives, and m have places within reach. None of
    them is a positive with probability C(g-p, m) / C(g, m), the product of (g-p-i) / (g-i) over i < m.
    """
    within = _within(best, rank)
    others = best.tied - best.positives_tied
    missed = torch.ones(len(within), dtype=torch.float64)
    for place in range(int(within.max())):
        factor = (others - place).clamp(min=0).double() / (best.tied - place).clamp(min=1)
        missed = torch.where(place < within, missed * factor, missed)
    return missed


def _within(counts: RankCounts, rank: int) -> Tensor:
    """Count the places of each positive's tied group within the first `rank` places."""
    return (rank - counts.higher).clamp(min=0).minimum(counts.tied)


def _precision(counts: RankCounts, rank: int, harmonic: Tensor) -> Tensor:
    """Compute the expected value of prec(i) at a positive's rank i, 0 where i > `rank`; float64 `[Q, P]`.

    With n items and r positives higher, g items and p positives tied, a positive is at each of the ranks n+1
    ... n+g with probability 1/g; at n+j, on average (j-1) (p-1) / (g-1) tied positives stand before it:

        1/g * sum over j = 1..m of (r + 1 + (j-1) s) / (n + j),    s = (p-1) / (g-1), m places within reach
        = 1/g * [m s + (r + 1 - (n+1) s) * (H(n+m) - H(n))],       H(n) = 1 + 1/2 + ... + 1/n
    """
    higher, tied, positives_higher, positives_tied, _ = counts
    within = _within(counts, rank)
    step = (positives_tied - 1).double() / (tied - 1).clamp(min=1)
    reciprocals = harmonic[higher + within] - harmonic[higher]
    total = within * step + (positives_higher + 1 - (higher + 1) * step) * reciprocals
    # Compute a single place, the usual case, without the rounding errors of differences.
    total = torch.where(within == 1, (positives_higher + 1).double() / (higher + 1), total)
    return total / tied


def _sum_over_positives(values: Tensor, counts: RankCounts) -> Tensor:
    """Sum `[Q, P]` to `[Q]`.

    Adds sequentially: `sum` groups terms by width, and padding changes the width from chunk to chunk.
    """
    # Padding is 0 / 0 up to here.
    return values.masked_fill(~counts.valid, 0.0).cumsum(dim=1)[:, -1]


def _harmonic_numbers(count: int) -> Tensor:
    """Compute H(n) = 1 + 1/2 + ... + 1/n for n = 0..`count`, float64."""
    return F.pad(torch.arange(1, count + 1, dtype=torch.float64).reciprocal().cumsum(0), (1, 0))


def _check_embeddings(queries: Tensor, items: Tensor) -> None:
    for name, embeddings in (("queries", queries), ("items", items)):
        if embeddings.numel() == 0:
            raise ValueError(
                f"The {name} have shape {list(embeddings.shape)}; expected [N, D], neither of them 0."
            )
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"The queries have shape {list(queries.shape)} and the items {list(items.shape)}; expected "
            "embeddings of the same length."
        )
    for name, embeddings in (("queries", queries), ("items", items)):
        norms = torch.linalg.vector_norm(embeddings, dim=1)
        wrong = ~((norms - 1.0).abs() <= NORM_TOLERANCE)  # negated, so that NaN counts as wrong
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"Row {first} of the {name} has norm {norms[first].item():.6g} ({int(wrong.sum())} of "
                f"{len(norms)} are off); expected 1. Normalise with torch.nn.functional.normalize(x, dim=-1)."
            )
