"""How well embeddings of one kind find those of another: precision, recall and mAP of rankings by cosine.

Functions of embeddings and of what counts as a match; encoding clips and choosing labels is left to others.

For a query with P positives, let rel(i) be 1 if the item at rank i (from 1) is a positive, else 0, and
prec(i) = (rel(1) + ... + rel(i)) / i. The query's figures are

======== ============================================ ================================================
P@1      rel(1)                                       precision at 1
R@k      (rel(1) + ... + rel(k)) / P                  recall: which part of the positives was found
hit@k    1 if rel(1) + ... + rel(k) > 0, else 0       whether anything was found
mAP      sum of prec(i) rel(i) over all i, / P        average precision of the full ranking
mAP@k    sum of prec(i) rel(i) over i <= k,           the same of the first k; divided by what a perfect
         / min(k, P)                                  ranking reaches, so that its maximum is 1 too
======== ============================================ ================================================

and the result holds their means over the queries that have a positive. The others are left out and
counted: recall is not defined for them.

P@1 and R@1 are different figures once there are several positives: R@1 of a query is its P@1 divided by
P, so R@1 cannot exceed 1 / P. The querying tables of arXiv 2106.13043 list both, and they differ. With
one positive for each query they agree. Work with one caption per image often says "R@k" for what is hit@k
here; hit@1 is always P@1, and hit@k is R@k where P = 1.

Ties. Items of equal score have no order, so each figure is its expected value over all orders of them,
in closed form (McSherry and Najork, "Computing information retrieval performance measures efficiently
in the presence of tied scores", ECIR 2008). It is what shuffling the items before sorting gives on
average, and it depends neither on the order of the items nor on a sort's habits; a model that gives
everything one embedding scores like chance, neither 1 nor 0. Ties are common: in ESC-50 forty clips
have the same text.

What is equal. Embeddings, float64 too, are rounded to multiples of 2^-26 (1.5e-8, less than float32's
own error in a sum of 1024 products), after which scores are computed without any rounding. So equal
items tie exactly, and neither device, threads nor chunks can change an order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.evaluations.positives import PositivePairs
from utils.evaluations.ranking import Standing, find_standing, on_grid

__all__ = ["NORM_TOLERANCE", "PositivePairs", "RetrievalResult", "retrieval_metrics"]

NORM_TOLERANCE = 1e-3
"""How far from 1 the norm of an embedding may be."""

# Scores in memory at a time. At 8 bytes, with a dozen arrays of this size at worst, under 1 GiB.
_SCORES_AT_ONCE = 2**23


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics of one direction of retrieval.

    Attributes:
        values: by name, each 0 to 1, a mean over `queries`.
        queries: how many queries have a positive and are counted.
        left_out: how many have none and are not.
    """

    values: dict[str, float]
    queries: int
    left_out: int


@torch.no_grad()
def retrieval_metrics(
    queries: Tensor,
    items: Tensor,
    positives: PositivePairs,
    *,
    k: Sequence[int] = (1, 5, 10),
    queries_per_chunk: int | None = None,
) -> RetrievalResult:
    """Rank all items for each query by cosine, and measure where its positives stand.

    The module's docstring has the definitions. Queries without a positive are left out and counted.

    Args:
        queries: float32 or float64 `[Nq, D]`, L2-normalised.
        items: `[Ni, D]`, likewise, on the same device.
        positives: for Nq queries and Ni items.
        k: the ranks of R@k and hit@k, at least 1; the largest is that of mAP@k. Larger than Ni is allowed.
        queries_per_chunk: how many queries are scored at a time; None: about 8 million scores' worth.

    Returns:
        "P@1"; "R@k" and "hit@k" for each k; "mAP"; "mAP@k" for the largest k.

    Raises:
        ValueError: shapes, dtypes or devices do not fit each other or `positives`, an embedding is not
            normalised, there is nothing to rank, an option is out of range, or no query has a positive.

    Example:
        Of three sounds the first two find their own text first, the third finds it last.

        >>> import torch
        >>> texts = torch.eye(3)
        >>> sounds = texts[[0, 1, 0]]
        >>> result = retrieval_metrics(sounds, texts, PositivePairs.by_index(3), k=[1, 3])
        >>> {name: round(value, 3) for name, value in result.values.items() if name in ("R@1", "R@3", "mAP")}
        {'R@1': 0.667, 'R@3': 1.0, 'mAP': 0.806}
    """
    _check_embeddings(queries, items)
    _check_positives(positives, query_count=len(queries), item_count=len(items))
    _check_options(k, queries_per_chunk)
    chunk = queries_per_chunk or max(1, _SCORES_AT_ONCE // len(items))
    exact_items = on_grid(items)
    harmonic = _harmonic_numbers(len(items))

    values: dict[str, list[float]] = {}
    left_out = 0
    for start in range(0, len(queries), chunk):
        found = [positives.items_of(query) for query in range(start, min(start + chunk, len(queries)))]
        kept = [row for row, row_items in enumerate(found) if len(row_items)]
        left_out += len(found) - len(kept)
        if not kept:
            continue
        exact_queries = on_grid(queries[start : start + chunk][kept])
        standing = find_standing(exact_queries, exact_items, [found[row] for row in kept])
        for name, of_queries in _figures(standing, k=k, harmonic=harmonic).items():
            values.setdefault(name, []).extend(of_queries.tolist())
    if not values:
        raise ValueError(
            f"None of the {len(queries)} queries has a positive among the {len(items)} items: they share no "
            "label. Are the labels of both spelt alike?"
        )
    counted = len(queries) - left_out
    # fsum is exact, so that the order of the queries does not matter either.
    means = {name: math.fsum(of_queries) / counted for name, of_queries in values.items()}
    return RetrievalResult(values=means, queries=counted, left_out=left_out)


def _figures(standing: Standing, *, k: Sequence[int], harmonic: Tensor) -> dict[str, Tensor]:
    """Compute each query's expected figures, float64 `[Q]` by name."""
    item_count = len(harmonic) - 1
    largest = max(k)
    count = standing.valid.sum(dim=1)
    # Positives stand best first: most columns are beyond every k.
    width = max(1, int((standing.higher < largest).sum(dim=1).max()))
    near = Standing(*(column[:, :width] for column in standing))

    figures = {"P@1": _hit(standing, 1)}
    for rank in k:
        found = _within(near, rank).double() / near.tied
        figures[f"R@{rank}"] = _sum_over_positives(found, near) / count
    for rank in k:
        figures[f"hit@{rank}"] = _hit(standing, min(rank, item_count))
    precision = _precision(standing, item_count, harmonic)
    figures["mAP"] = _sum_over_positives(precision, standing) / count
    precision = _precision(near, largest, harmonic)
    figures[f"mAP@{largest}"] = _sum_over_positives(precision, near) / count.clamp(max=largest)
    return figures


def _within(standing: Standing, rank: int) -> Tensor:
    """Count the places of a positive's tied group that are within the first `rank`."""
    return (rank - standing.higher).clamp(min=0).minimum(standing.tied)


def _hit(standing: Standing, rank: int) -> Tensor:
    """Compute how probable it is that a positive is among the first `rank`, float64 `[Q]`.

    Only the best group that holds a positive matters: with m of its g places within reach and p positives in
    it, all are missed with probability (g-p)/g * (g-p-1)/(g-1) * ... of m factors.
    """
    places = torch.arange(rank)
    within = _within(standing, rank)[:, :1]
    tied, positives_tied = standing.tied[:, :1], standing.positives_tied[:, :1]
    others = (tied - positives_tied - places).clamp(min=0).double()
    missed = torch.where(places < within, others / (tied - places), 1.0)  # [Q, rank]
    return 1.0 - missed.cumprod(dim=1)[:, -1]


def _precision(standing: Standing, rank: int, harmonic: Tensor) -> Tensor:
    """Compute the expected value of prec(i) at a positive's rank i, 0 where i > `rank`; float64 `[Q, P]`.

    With n items and r positives higher, g items and p positives tied, a positive is at each of the ranks n+1
    ... n+g with probability 1/g; at n+j, on average (j-1) (p-1) / (g-1) tied positives stand before it:

        1/g * sum over j = 1..m of (r + 1 + (j-1) s) / (n + j),    s = (p-1) / (g-1), m places within reach
        = 1/g * [m s + (r + 1 - (n+1) s) * (H(n+m) - H(n))],       H(n) = 1 + 1/2 + ... + 1/n
    """
    higher, tied, positives_higher, positives_tied, _ = standing
    within = _within(standing, rank)
    step = (positives_tied - 1).double() / (tied - 1).clamp(min=1)
    reciprocals = harmonic[higher + within] - harmonic[higher]
    total = within * step + (positives_higher + 1 - (higher + 1) * step) * reciprocals
    # One place, the usual case, without the differences' rounding.
    total = torch.where(within == 1, (positives_higher + 1).double() / (higher + 1), total)
    return total / tied


def _sum_over_positives(of_positives: Tensor, standing: Standing) -> Tensor:
    """Add `[Q, P]` to `[Q]`.

    One after the other, where `sum` would group by the width, which unused places change from chunk to chunk.
    """
    # Unused places are 0 / 0 until here.
    return of_positives.masked_fill(~standing.valid, 0.0).cumsum(dim=1)[:, -1]


def _harmonic_numbers(count: int) -> Tensor:
    """Compute H(n) = 1 + 1/2 + ... + 1/n for n = 0..`count`, float64."""
    return F.pad(torch.arange(1, count + 1, dtype=torch.float64).reciprocal().cumsum(0), (1, 0))


def _check_embeddings(queries: Tensor, items: Tensor) -> None:
    for name, embeddings in (("queries", queries), ("items", items)):
        if embeddings.dim() != 2 or embeddings.numel() == 0:
            raise ValueError(
                f"The {name} have shape {list(embeddings.shape)}; expected [N, D], none of them 0."
            )
        if embeddings.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"The {name} are {embeddings.dtype}; expected float32 or float64. Convert before normalising."
            )
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"The queries have shape {list(queries.shape)} and the items {list(items.shape)}; expected "
            "embeddings of the same length."
        )
    if queries.device != items.device:
        raise ValueError(f"The queries are on {queries.device}, the items on {items.device}; move one.")
    for name, embeddings in (("queries", queries), ("items", items)):
        norms = torch.linalg.vector_norm(embeddings, dim=1)
        wrong = ~((norms - 1.0).abs() <= NORM_TOLERANCE)  # so written, NaN is wrong
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"Row {first} of the {name} has the norm {norms[first].item():.6g} ({int(wrong.sum())} of "
                f"{len(norms)} are off); expected 1. Normalise with torch.nn.functional.normalize(x, dim=-1)."
            )


def _check_positives(positives: PositivePairs, *, query_count: int, item_count: int) -> None:
    if (positives.query_count, positives.item_count) != (query_count, item_count):
        raise ValueError(
            f"The positives are of {positives.query_count} queries and {positives.item_count} items; the "
            f"embeddings are {query_count} queries and {item_count} items."
        )


def _check_options(k: Sequence[int], queries_per_chunk: int | None) -> None:
    if not k or any(rank < 1 for rank in k):
        raise ValueError(f"k is {list(k)}; expected one or more ranks, counted from 1.")
    if queries_per_chunk is not None and queries_per_chunk < 1:
        raise ValueError(f"queries_per_chunk is {queries_per_chunk}; expected at least 1, or None.")
