"""Contrastive losses between modalities: functions of logits, no parameters and no model."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Positives = Literal["diagonal", "same_label"]
Reduction = Literal["factorial", "mean"]


def pairwise_contrastive_loss(
    logits: Iterable[Tensor],
    *,
    sample_weight: Tensor | None = None,
    positives: Positives = "diagonal",
    label_ids: Tensor | None = None,
    reduction: Reduction = "factorial",
) -> Tensor:
    """Combine the contrastive losses of all pairs of modalities.

    Args:
        logits: one `[B, B]` for each pair of modalities, scaled similarities.
        sample_weight: `[B]`, not negative, not all 0; None weighs all alike. See `sample_weights`.
        positives: "diagonal": as published, each sample matches itself alone, so that equal labels in a
            batch count as negatives. "same_label": a sample matches all samples of its label, the target
            distribution is uniform over them.
        label_ids: integers `[B]`, one for each distinct label; needed for "same_label". See `label_ids_of`.
        reduction: over n pairs. "factorial": the sum divided by n!, as published (6 for three pairs, where
            a mean divides by 3). "mean": the mean.

    Returns:
        Scalar.

    Raises:
        ValueError: there are no logits, they are not square and of one size, an option is unknown, or
            `label_ids` do not go with `positives`.

    Example:
        >>> import torch
        >>> certain, clueless = 100 * torch.eye(4), torch.zeros(4, 4)
        >>> [round(float(pairwise_contrastive_loss([logits])), 4) for logits in (certain, clueless)]
        [0.0, 2.7726]

        The second is ln 4 along the rows and once more along the columns.
    """
    pairs = list(logits)
    if not pairs:
        raise ValueError("A contrastive loss needs the logits of at least one pair of modalities; got none.")
    batch = pairs[0].shape[0]
    shapes = [list(pair.shape) for pair in pairs]
    if any(shape != [batch, batch] for shape in shapes):
        raise ValueError(
            f"Logits have shapes {shapes}; expected one [B, B] for all. Samples of all modalities belong "
            "together: item i of one with item i of the others."
        )
    targets = _targets(pairs[0], positives=positives, label_ids=label_ids)
    return combined([_symmetric_loss(pair, targets, sample_weight) for pair in pairs], reduction)


def combined(losses: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """Make one loss of those of n pairs of modalities: their sum divided by n! ("factorial"), or the mean.

    Raises:
        ValueError: the reduction is none of these.
    """
    total = torch.stack(list(losses)).sum()
    if reduction == "factorial":
        return total / math.factorial(len(losses))
    if reduction == "mean":
        return total / len(losses)
    raise ValueError(f'reduction is {reduction!r}; "factorial" and "mean" are allowed.')


def sample_weights(labels: Sequence[Sequence[str]], class_weights: Mapping[str, float]) -> Tensor:
    """Weigh each sample by the sum of its labels' class weights.

    Args:
        labels: of each sample, one or several.
        class_weights: weight of each class, by name.

    Returns:
        `[B]`, of the default dtype, on the CPU.

    Raises:
        ValueError: a label has no weight.
    """
    unknown = sorted({label for sample in labels for label in sample if label not in class_weights})
    if unknown:
        raise ValueError(f"No class weight for {', '.join(map(repr, unknown))}.")
    return torch.tensor([float(sum(class_weights[label] for label in sample)) for sample in labels])


def label_ids_of(labels: Sequence[Sequence[str]]) -> Tensor:
    """Turn the set of labels of each sample into an integer, the same on every rank and in every run.

    Args:
        labels: of each sample, one or several; their order does not matter.

    Returns:
        int64 `[B]`, on the CPU: 63 bits of a hash, equal for equal sets of labels.

    Example:
        >>> ids = label_ids_of([["dog"], ["rain", "wind"], ["wind", "rain"]]).tolist()
        >>> ids[0] == ids[1], ids[1] == ids[2]
        (False, True)
    """
    keys = ["\0".join(sorted(set(sample))).encode() for sample in labels]
    hashes = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1 for key in keys]
    return torch.tensor(hashes, dtype=torch.int64)


def _targets(logits: Tensor, *, positives: Positives, label_ids: Tensor | None) -> Tensor | None:
    """Make the target distributions `[B, B]`: of each row and, being symmetric, of each column.

    None: those of the diagonal, which need no matrix.
    """
    batch = logits.shape[0]
    if positives == "diagonal":
        if label_ids is not None:
            raise ValueError('label_ids were given, but positives "diagonal" ignores them; use "same_label".')
        return None
    if positives != "same_label":
        raise ValueError(f'positives is {positives!r}; "diagonal" and "same_label" are allowed.')
    if label_ids is None or label_ids.shape != (batch,):
        given = "none" if label_ids is None else f"shape {list(label_ids.shape)}"
        raise ValueError(f'positives "same_label" needs label_ids of shape [{batch}]; got {given}.')
    label_ids = label_ids.to(logits.device, non_blocking=True)
    # Symmetric after division too: samples of one label have equally many positives.
    same = (label_ids[:, None] == label_ids[None, :]).to(logits.dtype)
    return same / same.sum(dim=1, keepdim=True)


def _symmetric_loss(logits: Tensor, targets: Tensor | None, sample_weight: Tensor | None) -> Tensor:
    """Add the weighted mean cross-entropies along rows and along columns of one pair's logits.

    Two matrices as large as the logits are kept for the backward pass, 1 GiB each at a batch of 16,384.
    """
    by_row, by_column = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
    if targets is None:
        rows, columns = by_row.diagonal(), by_column.diagonal()
    else:
        rows, columns = (targets * by_row).sum(dim=1), (targets * by_column).sum(dim=0)
    losses = -(rows + columns)
    if sample_weight is None:
        return losses.mean()
    if sample_weight.shape != losses.shape:
        raise ValueError(
            f"Sample weights have shape {list(sample_weight.shape)}; expected {list(losses.shape)}."
        )
    weight = sample_weight.to(losses, non_blocking=True)
    return (weight * losses).sum() / weight.sum()
