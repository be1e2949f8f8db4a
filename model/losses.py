"""Similarities and contrastive losses between modalities, as pure functions of embeddings."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .matches import Positives, find_matches
from .parts import PairLoss

Reduction = Literal["factorial", "mean"]

MAX_LOGIT_SCALE = 100.0


class Features(NamedTuple):
    """L2-normalised embeddings `[B, D]` of each modality; None for absent modalities."""

    audio: Tensor | None
    image: Tensor | None
    text: Tensor | None


class Logits(NamedTuple):
    """Scaled similarities `[rows, columns]` of each pair of modalities; None for absent pairs."""

    audio_image: Tensor | None
    audio_text: Tensor | None
    image_text: Tensor | None


def normalised(features: Tensor) -> Tensor:
    """Divide embeddings `[..., D]` by their L2 norms; the result is float32, or float64 for float64."""
    unit: Tensor = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    return unit


def clamped_scale(log_scale: Tensor) -> Tensor:
    """Compute the scale `clamp(exp(s), 1, 100)` from its learned logarithm s.

    The gradient is that of exp(s) from s = 0 to s = log(100), both included, so that a scale that starts at
    100 can leave it; `torch.clamp` gives no gradient at its bounds since torch 2.14.
    """
    clamped = log_scale.detach().clamp(0.0, math.log(MAX_LOGIT_SCALE))
    return torch.where(log_scale == clamped, log_scale, clamped).exp()


def scaled_similarity(
    log_scale: Tensor, rows: Tensor | None, columns: Tensor | None, bias: Tensor | None = None
) -> Tensor | None:
    """Compute scaled cosine similarities.

    Autocast is off because bfloat16 cosines, multiplied by 100, would give different classes equal scores.

    Args:
        log_scale: logarithm of the scale, scalar.
        rows: normalised features `[rows, D]`, or None.
        columns: normalised features `[columns, D]`, or None.
        bias: scalar that is added to all similarities; None for 0.

    Returns:
        `[rows, columns]`; None if `rows` or `columns` is None.
    """
    if rows is None or columns is None:
        return None
    with torch.autocast(rows.device.type, enabled=False):
        similarity = clamped_scale(log_scale) * rows @ columns.T
        return similarity if bias is None else similarity + bias


def pairwise_contrastive_loss(
    logits: Iterable[Tensor],
    *,
    sample_weight: Tensor | None = None,
    positives: Positives = "diagonal",
    label_ids: Tensor | None = None,
    reduction: Reduction = "factorial",
) -> Tensor:
    """Compute the symmetric contrastive loss of each pair of modalities, and combine the losses.

    A pair's loss is the sum of the cross-entropies along rows and along columns, as in CLIP (arXiv
    2103.00020) but without halving the sum.

    Args:
        logits: scaled similarities `[B, B]`, one matrix for each pair of modalities.
        sample_weight: weights `[B]`, not negative and not all 0; None for equal weights. See
            `sample_weights`.
        positives: rule for matching samples. "diagonal", as published, matches each sample only with itself,
            so other samples with the same labels count as negatives. "same_label" matches a sample with all
            samples that have the same labels, with a uniform target distribution.
        label_ids: integers `[B]` for "same_label", equal for samples with the same labels. See
            `label_ids_of`.
        reduction: combination of the losses of n pairs. "factorial", as published, divides their sum by n!
            (by 6 for three pairs, where the mean would divide by 3). "mean" is their mean.

    Returns:
        Scalar.

    Raises:
        ValueError: The logits are missing, not square or of different sizes; an option is unknown; or
            `label_ids` are missing, have the wrong shape, or are given but not used.

    Example:
        >>> import torch
        >>> certain, clueless = 100 * torch.eye(4), torch.zeros(4, 4)
        >>> [round(float(pairwise_contrastive_loss([logits])), 4) for logits in (certain, clueless)]
        [0.0, 2.7726]

        The second loss is ln 4 along the rows plus ln 4 along the columns.
    """
    pairs = list(logits)
    if not pairs:
        raise ValueError("A contrastive loss needs the logits of at least one pair of modalities; got none.")
    batch = pairs[0].shape[0]
    shapes = [list(pair.shape) for pair in pairs]
    if any(shape != [batch, batch] for shape in shapes):
        raise ValueError(
            f"Logits have shapes {shapes}; expected the same [B, B] for all: sample i of "
            "each modality belongs to sample i of the others."
        )
    matches = find_matches(batch, positives=positives, label_ids=label_ids)
    loss = PairLoss(batch=batch, matches=matches, sample_weight=sample_weight)
    return combined([loss.softmax(pair, pair, slice(0, batch)) for pair in pairs], reduction)


def combined(losses: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """Combine the losses of n pairs of modalities into their sum divided by n! ("factorial") or their mean.

    Raises:
        ValueError: The reduction is unknown.
    """
    total = torch.stack(list(losses)).sum()
    if reduction == "factorial":
        return total / math.factorial(len(losses))
    if reduction == "mean":
        return total / len(losses)
    raise ValueError(f'reduction is {reduction!r}; "factorial" and "mean" are allowed.')


def sample_weights(labels: Sequence[Sequence[str]], class_weights: Mapping[str, float]) -> Tensor:
    """Weight each sample by the sum of the weights of its labels.

    Args:
        labels: one or more labels for each of the B samples.
        class_weights: weight of each label.

    Returns:
        Weights `[B]` of the default dtype, on the CPU.

    Raises:
        ValueError: A label has no weight.
    """
    unknown = sorted({label for sample in labels for label in sample if label not in class_weights})
    if unknown:
        raise ValueError(f"No class weight for {', '.join(map(repr, unknown))}.")
    return torch.tensor([float(sum(class_weights[label] for label in sample)) for sample in labels])


def label_ids_of(labels: Sequence[Sequence[str]]) -> Tensor:
    """Hash each sample's set of labels to an integer that is the same on every rank and in every run.

    Args:
        labels: one or more labels for each of the B samples, in any order.

    Returns:
        int64 `[B]` on the CPU: 63-bit hashes, equal for equal sets of labels.

    Example:
        >>> ids = label_ids_of([["dog"], ["rain", "wind"], ["wind", "rain"]]).tolist()
        >>> ids[0] == ids[1], ids[1] == ids[2]
        (False, True)
    """
    keys = ["\0".join(sorted(set(sample))).encode() for sample in labels]
    hashes = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1 for key in keys]
    return torch.tensor(hashes, dtype=torch.int64)
