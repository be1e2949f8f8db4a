"""Mixed samples in contrastive losses: the texts, the weights and the matches of each mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ignite_trainer.api.batch import Mixed
from model.losses import label_ids_of, sample_weights
from model.matches import Mixtures


def own_values(rows: Iterable[Any]) -> list[Any]:
    """Return the own value of each row of a list field, whether samples were mixed or not."""
    return [row.values[0] if isinstance(row, Mixed) else row for row in rows]


def weights_of(labels: Sequence[Any], class_weights: Mapping[str, float]) -> Tensor:
    """Weight each sample by the sum of the weights of its labels, and a mixture by the mean of its samples.

    Returns:
        Weights `[B]` of the default dtype, on the CPU.
    """
    if not _are_mixed(labels):
        return sample_weights(labels, class_weights)
    # Not a matrix product, which autocast would round.
    each = [sample_weights(row.values, class_weights) * torch.tensor(row.weights) for row in labels]
    return torch.stack([shares.sum() for shares in each])


def mixtures_of(rows: Sequence[Any], *, by_label: bool) -> Mixtures | None:
    """Return the mixture in each row of a batch; None if no transform mixes samples.

    Args:
        rows: values of a list field; labels if `by_label`.
        by_label: whether identities are label ids. Otherwise, they are rows of the batch; a sample that is
            not in the batch is left out, and one that occurs several times has its share divided.
    """
    if not _are_mixed(rows):
        return None
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.samples[0], []).append(place)
    found: list[list[tuple[int, float]]] = []
    for place, row in enumerate(rows):
        if by_label:
            ids = label_ids_of(row.values).tolist()
            found.append(list(zip(ids, row.weights, strict=True)))
            continue
        others = [
            (places.get(sample, []), share) for sample, share in zip(row.samples, row.weights, strict=True)
        ]
        found.append(
            [(place, row.weights[0])]
            + [(other, share / len(others)) for others, share in others[1:] for other in others]
        )
    size = max(map(len, found))
    padded = [[*row, *[(-1, 0.0)] * (size - len(row))] for row in found]
    return Mixtures(
        torch.tensor([[sample for sample, _ in row] for row in padded], dtype=torch.int64),
        torch.tensor([[share for _, share in row] for row in padded], dtype=torch.float64),
    )


def _are_mixed(rows: Sequence[Any]) -> bool:
    return bool(rows) and isinstance(rows[0], Mixed)
