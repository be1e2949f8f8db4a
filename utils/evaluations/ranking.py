"""Rank the positives of queries among all items by cosine, counting ties exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Embeddings are rounded to multiples of 2^-26. Scores and all partial sums are then multiples of 2^-52, none
# above sum |q x| <= |q| |x| < 2, which float64 represents exactly.
_STEPS = 2.0**26


def on_grid(embeddings: Tensor) -> Tensor:
    """Round embeddings to steps of 2^-26: float64, on the CPU if the device (MPS) does not support it."""
    if embeddings.device.type == "mps":
        embeddings = embeddings.cpu()
    return embeddings.to(torch.float64, copy=True).mul_(_STEPS).round_()


class Standing(NamedTuple):
    """Ranks of positives: `[Q, P]` on the CPU, best first, P the largest number of positives of a query.

    A positive is tied with itself, so both tied counts are at least 1. Rows with fewer positives end in
    unused places: not `valid`, `higher` Ni, `tied` 0.
    """

    higher: Tensor  # int32: items with a higher score
    tied: Tensor  # int32: items with the same score
    positives_higher: Tensor  # int32: positives among `higher`
    positives_tied: Tensor  # int32: positives among `tied`
    valid: Tensor  # bool


def find_standing(queries: Tensor, items: Tensor, positives: Sequence[NDArray[np.int64]]) -> Standing:
    """Count, for each positive, the items with a higher and with the same score.

    Counts need no full ranking: one sort of each row of scores, without indices, and two binary searches for
    each positive are enough. Comparing each positive with every item is cheaper for a few positives and far
    more expensive for hundreds; the sort costs no more than the products at D = 1024.

    Args:
        queries: embeddings `[Q, D]` from `on_grid`.
        items: `[Ni, D]`, likewise.
        positives: indices of each query's positives, ascending, at least one.
    """
    most = max(len(row) for row in positives)
    padded = np.zeros((len(positives), most), dtype=np.int64)
    for place, row in zip(padded, positives, strict=True):
        place[: len(row)] = row
    valid = torch.arange(most) < torch.tensor([len(row) for row in positives])[:, None]

    scores = -queries @ items.T  # [Q, Ni], negated: ascending is best first
    own = scores.gather(1, torch.from_numpy(padded).to(items.device))
    own = _sorted_rows(own.masked_fill_(~valid.to(items.device), math.inf))  # unused places come last
    scores = _sorted_rows(scores)
    higher, tied = _higher_and_tied(scores, own)
    positives_higher, positives_tied = _higher_and_tied(own, own)
    # Whole numbers, equal on every device, and so are the CPU's results from them.
    return Standing(
        higher=higher.cpu(),
        tied=tied.cpu(),
        positives_higher=positives_higher.cpu(),
        positives_tied=positives_tied.cpu(),
        valid=valid,
    )


def _sorted_rows(scores: Tensor) -> Tensor:
    """Sort each row, ascending, perhaps in place."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    # Over ten times as fast as torch's, which also sorts indices.
    scores.numpy().sort(axis=1)
    return scores


def _higher_and_tied(ranked: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each of `scores`, the members of its row of `ranked` that precede it, and its equals."""
    before = torch.searchsorted(ranked, scores, out_int32=True)
    return before, torch.searchsorted(ranked, scores, right=True, out_int32=True) - before
