"""Samples of a batch that match each other: target distributions of contrastive losses."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Positives = Literal["diagonal", "same_label"]


class Mixtures(NamedTuple):
    """Mixtures of up to K samples, one in each row of a batch.

    Attributes:
        ids: identities of the samples in each mixture, int64 `[B, K]`: rows of the batch, or label ids if
            samples with the same labels match.
        weights: shares of the samples, float `[B, K]`, not negative; those in a row are divided by their sum.
            The first sample in a row is the row's own; unused places have weight 0.
    """

    ids: Tensor
    weights: Tensor


class Matches(NamedTuple):
    """Matches between the rows i and the columns j of similarities `[B, B]`.

    ```text
    weights[i, k]   share of samples with the identity mixed[i, k] in row i
    match[i, j] =   sum over k of weights[i, k] where mixed[i, k] == ids[j]
    ```

    Attributes:
        ids: identities of the columns, int64 `[B]`.
        mixed: identities of the samples in each row, int64 `[B, K]`.
        weights: their shares, `[B, K]`; they sum to 1 in each row.
        row_targets: shares, each divided by the number of columns with this identity, `[B, K]`.
        column_targets: shares, each divided by their sum over all rows with this identity, `[B, K]`.
    """

    ids: Tensor
    mixed: Tensor
    weights: Tensor
    row_targets: Tensor
    column_targets: Tensor

    @classmethod
    def of(cls, ids: Tensor, mixtures: Mixtures | None) -> "Matches":
        """Match samples with the same identity, int64 `[B]`, weighted by their shares in the rows' mixtures.

        The share of a sample whose identity no column has goes to the other samples in the mixture.
        """
        mixed, weights = (ids[:, None], torch.ones_like(ids)[:, None]) if mixtures is None else mixtures
        known, counts = ids.unique(return_counts=True)
        at = torch.searchsorted(known, mixed).clamp(max=len(known) - 1)  # [B, K]
        weights = weights.double() * (known[at] == mixed)
        weights[:, 0] += weights.sum(dim=1) == 0
        weights = weights / weights.sum(dim=1, keepdim=True)
        shares = torch.zeros(len(known), dtype=weights.dtype, device=ids.device)
        shares.index_add_(0, at.flatten(), weights.flatten())
        # A sample whose shares are all 0 matches no row.
        by_column = torch.where(shares[at] > 0, weights / shares[at], 0.0)
        return cls(ids, mixed, weights, weights / counts[at], by_column)

    def to(self, like: Tensor) -> "Matches":
        """Move everything to the device of `like` without blocking, and shares to its dtype."""
        ids, mixed, *shares = self
        return Matches(
            *(numbers.to(like.device, non_blocking=True) for numbers in (ids, mixed)),
            *(numbers.to(like, non_blocking=True) for numbers in shares),
        )

    def along_rows(self, rows: slice) -> Tensor:
        """Return the target distributions of some rows over all columns, `[rows, B]`; each sums to 1."""
        return _spread(self.mixed[rows], self.row_targets[rows], self.ids)

    def along_columns(self, columns: slice) -> Tensor:
        """Return the target distributions of some columns over all rows, `[B, columns]`; each sums to 1."""
        return _spread(self.mixed, self.column_targets, self.ids[columns])

    def shares(self, rows: slice) -> Tensor:
        """Return the share of each column's identity in some rows, `[rows, B]`, from 0 to 1."""
        return _spread(self.mixed[rows], self.weights[rows], self.ids)


def find_matches(
    batch: int,
    *,
    positives: Positives = "diagonal",
    label_ids: Tensor | None = None,
    mixtures: Mixtures | None = None,
) -> Matches | None:
    """Return the matches in a batch; None if each row matches only its own column.

    Args:
        batch: number of samples, B.
        positives: rule for matching samples. "diagonal", as published, matches each sample only with itself,
            so other samples with the same labels count as negatives. "same_label" matches a sample with all
            samples that have the same labels, with a uniform target distribution.
        label_ids: integers `[B]` for "same_label", equal for samples with the same labels. See
            `losses.label_ids_of`.
        mixtures: mixtures of samples in the rows, whose target distributions are the means of those of their
            samples, weighted by their shares (mixup, arXiv 1710.09412). A column's target distribution is in
            proportion to its shares of the rows. None if rows are not mixed.

    Raises:
        ValueError: `positives` is unknown; or `label_ids` are missing, have the wrong shape, or are given but
            not used.
    """
    if positives == "diagonal":
        if label_ids is not None:
            raise ValueError('label_ids were given, but positives "diagonal" ignores them; use "same_label".')
        return None if mixtures is None else Matches.of(torch.arange(batch), mixtures)
    if positives != "same_label":
        raise ValueError(f'positives is {positives!r}; "diagonal" and "same_label" are allowed.')
    if label_ids is None or label_ids.shape != (batch,):
        given = "none" if label_ids is None else f"shape {list(label_ids.shape)}"
        raise ValueError(f'positives "same_label" needs label_ids of shape [{batch}]; got {given}.')
    return Matches.of(label_ids, mixtures)


def _spread(mixed: Tensor, shares: Tensor, ids: Tensor) -> Tensor:
    """Sum the shares `[rows, K]` of samples whose identity is that of a column: `[rows, columns]`."""
    total: Tensor = sum(  # type: ignore[assignment]
        shares[:, k, None] * (mixed[:, k, None] == ids) for k in range(mixed.shape[1])
    )
    return total
