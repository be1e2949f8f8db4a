"""Exact ranks, including ties, of each query's positives among all items by cosine similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Embeddings are stored as integer multiples of 2^-26, so scores and partial sums are integer multiples of
# 2^-52, none above sum |q x| <= |q| |x| < 2. float64 represents them exactly.
_STEPS = 2.0**26


def round_to_grid(embeddings: Tensor) -> Tensor:
    """Scale embeddings by 2^26 and round them to integers, as float64; on the CPU if MPS lacks float64."""
    if embeddings.device.type == "mps":
        embeddings = embeddings.cpu()
    return embeddings.to(torch.float64, copy=True).mul_(_STEPS).round_()


class RankCounts(NamedTuple):
    """Ranks of positives, `[Q, P]` on the CPU, best first; P is the maximum number of positives per query.

    A positive is tied with itself, so both tied counts are at least 1. Rows with fewer positives end in
    padding: `valid` is false, `higher` is Ni, and `tied` is 0.
    """

    higher: Tensor  # int32: items with a higher score
    tied: Tensor  # int32: items with the same score
    positives_higher: Tensor  # int32: positives among `higher`
    positives_tied: Tensor  # int32: positives among `tied`
    valid: Tensor  # bool


def count_ranks(queries: Tensor, items: Tensor, positives: Sequence[NDArray[np.int64]]) -> RankCounts:
    """Count, for each positive, the items with a higher score and the items with the same score.

    The counts do not require a full ranking: sorting each row of scores, without indices, and two binary
    searches per positive are enough. Comparing each positive with every item is cheaper for a few positives
    and far more expensive for hundreds. At D = 1024, the sort costs no more than the dot products.

    Args:
        queries: embeddings `[Q, D]` from `round_to_grid`.
        items: embeddings `[Ni, D]` from `round_to_grid`.
        positives: indices of each query's positives, ascending, at least one per query.
    """
    most = max(len(row) for row in positives)
    padded = np.zeros((len(positives), most), dtype=np.int64)
    for place, row in zip(padded, positives, strict=True):
        place[: len(row)] = row
    valid = torch.arange(most) < torch.tensor([len(row) for row in positives])[:, None]

    scores = -queries @ items.T  # [Q, Ni], negated: ascending is best first
    own = scores.gather(1, torch.from_numpy(padded).to(items.device))
    own = _sorted_rows(own.masked_fill_(~valid.to(items.device), math.inf))  # padding comes last
    scores = _sorted_rows(scores)
    higher, tied = _higher_and_tied(scores, own)
    positives_higher, positives_tied = _higher_and_tied(own, own)
    # The counts are integers and therefore equal on every device; results computed from them on the CPU are
    # equal, too.
    return RankCounts(
        higher=higher.cpu(),
        tied=tied.cpu(),
        positives_higher=positives_higher.cpu(),
        positives_tied=positives_tied.cpu(),
        valid=valid,
    )


def _sorted_rows(scores: Tensor) -> Tensor:
    """Sort each row in ascending order, possibly in place."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    # Over ten times as fast as torch.sort, which also sorts indices.
    scores.numpy().sort(axis=1)
    return scores


def _higher_and_tied(ranked: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each score, the elements of the same row of `ranked` that precede it, and those equal."""
    before = torch.searchsorted(ranked, scores, out_int32=True)
    return before, torch.searchsorted(ranked, scores, right=True, out_int32=True) - before
