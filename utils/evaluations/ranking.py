"""Where the positives of a query stand among all items ranked by cosine, ties counted exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Embeddings are rounded to multiples of 2^-26. A score is then a whole number of 2^-52, and so is every
# partial sum on the way to it, none above sum |q x| <= |q| |x| < 2: float64 holds them all without rounding.
_STEPS = 2.0**26


def on_grid(embeddings: Tensor) -> Tensor:
    """Count embeddings in steps of 2^-26, rounded: float64, on the CPU where the device (MPS) has none."""
    if embeddings.device.type == "mps":
        embeddings = embeddings.cpu()
    return embeddings.to(torch.float64, copy=True).mul_(_STEPS).round_()


class Standing(NamedTuple):
    """Where positives stand: `[Q, P]` on the CPU, best first, P the most that a query of the chunk has.

    A positive is tied with itself, so that both tied counts are at least 1. Rows of fewer positives end in
    unused places: not `valid`, `higher` Ni, `tied` 0.
    """

    higher: Tensor  # int32: items that score higher
    tied: Tensor  # int32: items of the same score
    positives_higher: Tensor  # int32: positives among `higher`
    positives_tied: Tensor  # int32: positives among `tied`
    valid: Tensor  # bool


def find_standing(queries: Tensor, items: Tensor, positives: Sequence[NDArray[np.int64]]) -> Standing:
    """Count, for each positive, who scores higher and who the same.

    Args:
        queries: embeddings `[Q, D]` as `on_grid` gives them.
        items: `[Ni, D]`, likewise.
        positives: indices of each query's positives, ascending, at least one.

    Only counts are needed, not the ranking: one sort of each row of scores, without its indices, and two
    binary searches for each positive. Comparing each positive with every item instead is cheaper for a few
    of them and far dearer for hundreds; the sort costs no more than the products at D = 1024, whatever the
    labels.
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
    # Whole numbers, the same from every device; what is computed of them on the CPU is, too.
    return Standing(
        higher=higher.cpu(),
        tied=tied.cpu(),
        positives_higher=positives_higher.cpu(),
        positives_tied=positives_tied.cpu(),
        valid=valid,
    )


def _sorted_rows(scores: Tensor) -> Tensor:
    """Sort each row, ascending; the argument's memory may be used for it."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    # Over ten times as fast as torch's, which sorts indices along.
    scores.numpy().sort(axis=1)
    return scores


def _higher_and_tied(ranked: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each of `scores`, the members of a row of `ranked` that come before it, and its equals."""
    before = torch.searchsorted(ranked, scores, out_int32=True)
    return before, torch.searchsorted(ranked, scores, right=True, out_int32=True) - before
