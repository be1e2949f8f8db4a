"""Parts of contrastive losses: some samples of a batch, compared with all samples.

```text
            columns
            . . o o . .       softmax: the rows o along all columns, and the columns o along all rows
     rows   . . o o . .       sigmoid: the rows o with all columns
            o o o o o o
            o o o o o o       The parts of all samples sum to the loss of the batch.
            . . o o . .
            . . o o . .
```
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .matches import Matches

LossKind = Literal["softmax", "sigmoid"]

Similarity = Callable[[slice, slice], Tensor]
"""Function that returns the scaled similarities of some rows and some columns of a batch."""


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """Contrastive loss of a pair of modalities in a batch of B samples.

    "softmax" is the sum of the cross-entropies along rows and along columns, each a mean over the batch, as
    in CLIP (arXiv 2103.00020) but without halving the sum. "sigmoid" classifies each pair of a row and a
    column as matching or not: it is the sum of the binary cross-entropies over all B^2 pairs, divided by B
    (SigLIP, arXiv 2303.15343, equation 1). Its similarities should include a bias.

    Attributes:
        batch: number of samples, B.
        matches: matches between rows and columns; None if each row matches only its own column.
        kind: "softmax" or "sigmoid".
        sample_weight: weights `[B]`, not negative and not all 0; None for equal weights. A pair of a row and
            a column has the mean of their weights.
        label_smoothing: share e of the uniform distribution in the target distributions, at least 0 and less
            than 1: a target T becomes (1 - e) T + e / B (arXiv 1512.00567, section 7). With "sigmoid", this
            applies to each pair's probability of a match.
    """

    batch: int
    matches: Matches | None = None
    kind: LossKind = "softmax"
    sample_weight: Tensor | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.sample_weight is not None and self.sample_weight.shape != (self.batch,):
            raise ValueError(
                f"Sample weights have shape {list(self.sample_weight.shape)}; expected [{self.batch}]."
            )

    def part(self, similarity: Similarity, own: slice, *, block: int | None = None) -> Tensor:
        """Return the part of the loss of the samples `own`, a scalar.

        Args:
            similarity: function that computes similarities.
            own: rows of the batch, with a start and a stop; may be empty.
            block: number of samples to compare at a time. Blocks are compared again in the backward pass, so
                that only one of them is in memory. None for all; with "sigmoid", for a number with which the
                memory does not depend on the size of the batch.
        """
        compare = self._softmax if self.kind == "softmax" else self._sigmoid
        if block is None and self.kind == "sigmoid":
            block = -(-((own.stop - own.start) ** 2) // self.batch)  # rounded up
        return sum_of_blocks(lambda rows: compare(similarity, rows), own, block)

    def _softmax(self, similarity: Similarity, own: slice) -> Tensor:
        every = slice(0, self.batch)
        rows = similarity(own, every)
        return self.softmax(rows, rows if own == every else similarity(every, own), own)

    def softmax(self, rows: Tensor, columns: Tensor, own: slice) -> Tensor:
        """Return the part of the softmax loss, given the similarities of `own` as rows and as columns.

        Rows are `[own, B]`, columns `[B, own]`. The backward pass keeps one matrix for each, which is 1 GiB
        for all rows of a batch of 16,384.
        """
        by_row, by_column = rows.log_softmax(dim=1), columns.log_softmax(dim=0)
        if self.matches is None:
            matched = by_row.diagonal(own.start), by_column.diagonal(-own.start)
        else:
            matches = self.matches.to(rows)
            matched = (
                (matches.along_rows(own) * by_row).sum(dim=1),
                (matches.along_columns(own) * by_column).sum(dim=0),
            )
        in_row, in_column = matched
        if self.label_smoothing:
            in_row = torch.lerp(in_row, by_row.mean(dim=1), self.label_smoothing)
            in_column = torch.lerp(in_column, by_column.mean(dim=0), self.label_smoothing)
        losses = -(in_row + in_column)
        if self.sample_weight is None:
            return losses.mean() if len(losses) == self.batch else losses.sum() / self.batch
        weight = self.sample_weight.to(losses, non_blocking=True)
        return (weight[own] * losses).sum() / weight.sum()

    def _sigmoid(self, similarity: Similarity, own: slice) -> Tensor:
        every = slice(0, self.batch)
        logits = similarity(own, every)
        matches = self.matches or Matches.of(torch.arange(self.batch), None)
        targets = matches.to(logits).shares(own)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.batch
        if self.sample_weight is None:
            loss: Tensor = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            return loss / self.batch
        weight = self.sample_weight.to(logits, non_blocking=True)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return ((weight[own, None] + weight) / 2 * losses).sum() / weight.sum()


def sum_of_blocks(compare: Callable[[slice], Tensor], own: slice, block: int | None) -> Tensor:
    """Return the sum of the parts of `block` samples at a time; only one of them is in memory.

    The parts are computed again in the backward pass, unless `block` is None or there is only one.
    """
    if block is None or block >= own.stop - own.start:
        return compare(own)
    starts = range(own.start, own.stop, block)
    blocks = [slice(start, min(start + block, own.stop)) for start in starts]
    parts = [checkpoint(compare, rows, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    return torch.stack(parts).sum()
