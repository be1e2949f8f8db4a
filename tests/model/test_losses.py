"""The contrastive loss equals plain loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses import label_ids_of, pairwise_contrastive_loss, sample_weights
from model.matches import Matches, Mixtures, find_matches
from model.parts import LossKind, PairLoss


def random_logits(count: int, batch: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [4 * torch.randn(batch, batch, generator=generator, dtype=torch.float64) for _ in range(count)]


def plain_loss(logits: Tensor, positives: list[list[int]], weights: list[float]) -> float:
    """Cross-entropy along rows plus along columns, one logit at a time."""
    total = 0.0
    for matrix in (logits.numpy(), logits.numpy().T):
        for i, weight in enumerate(weights):
            log_normaliser = math.log(sum(math.exp(value) for value in matrix[i]))
            mean = sum(matrix[i][j] - log_normaliser for j in positives[i]) / len(positives[i])
            total -= weight * mean / sum(weights)
    return total


@pytest.mark.parametrize("count", [1, 2, 3])
def test_losses_of_pairs_are_summed_and_divided_by_the_factorial(count: int) -> None:
    logits = random_logits(count)
    diagonal = [[i] for i in range(5)]
    expected = sum(plain_loss(pair, diagonal, [1.0] * 5) for pair in logits)
    assert pairwise_contrastive_loss(logits).item() == pytest.approx(expected / math.factorial(count))
    mean = pairwise_contrastive_loss(logits, reduction="mean")
    assert mean.item() == pytest.approx(expected / count)


def test_the_diagonal_loss_equals_torchs_cross_entropy() -> None:
    (logits,) = random_logits(1)
    weight = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    target = torch.arange(5)
    expected = sum(torch.nn.functional.cross_entropy(x, target, weight=weight) for x in (logits, logits.T))
    torch.testing.assert_close(pairwise_contrastive_loss([logits], sample_weight=weight), expected)


def test_the_diagonal_loss_keeps_two_matrices_per_pair() -> None:
    logits = [pair.requires_grad_() for pair in random_logits(3, batch=64)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = pairwise_contrastive_loss(logits)
    matrix = 64 * 64 * 8
    assert sum(size for size in kept.values() if size >= matrix) == 3 * 2 * matrix
    loss.backward()


def test_sample_weights_apply_to_rows_and_columns() -> None:
    logits = random_logits(3)
    weights = [0.5, 1.0, 2.0, 0.0, 3.0]
    expected = sum(plain_loss(pair, [[i] for i in range(5)], weights) for pair in logits) / 6
    loss = pairwise_contrastive_loss(logits, sample_weight=torch.tensor(weights))
    assert loss.item() == pytest.approx(expected)


def test_same_label_makes_every_sample_with_the_label_a_positive() -> None:
    logits = random_logits(3)
    label_ids = torch.tensor([7, 1, 7, 2, 7])
    positives = [[0, 2, 4], [1], [0, 2, 4], [3], [0, 2, 4]]
    expected = sum(plain_loss(pair, positives, [1.0] * 5) for pair in logits) / 6
    loss = pairwise_contrastive_loss(logits, positives="same_label", label_ids=label_ids)
    assert loss.item() == pytest.approx(expected)


def test_same_label_with_distinct_labels_equals_the_diagonal_loss() -> None:
    logits = random_logits(2)
    same = pairwise_contrastive_loss(logits, positives="same_label", label_ids=torch.arange(5))
    torch.testing.assert_close(same, pairwise_contrastive_loss(logits))


def test_class_weights_of_a_sample_are_added() -> None:
    weights = sample_weights([["dog"], ["dog", "rain"]], {"dog": 2.0, "rain": 0.5})
    assert weights.tolist() == [2.0, 2.5]
    with pytest.raises(ValueError, match="No class weight for 'cat'"):
        sample_weights([["cat"]], {"dog": 1.0})


def test_label_ids_are_equal_only_for_equal_sets() -> None:
    ids = label_ids_of([["dog"], ["rain", "dog"], ["dog", "rain"], ["dog rain"], ["dog"]])
    assert ids.dtype == torch.int64
    assert (ids >= 0).all()
    assert ids[0] == ids[4]
    assert ids[1] == ids[2]
    assert len(np.unique(ids)) == 3
    assert ids[0].item() == 2072328596179865167


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": []}, "at least one pair"),
        ({"logits": [torch.zeros(2, 3)]}, r"shapes \[\[2, 3\]\]"),
        ({"logits": [torch.zeros(2, 2), torch.zeros(3, 3)]}, r"expected the same \[B, B\]"),
        ({"logits": [torch.zeros(2, 2)], "reduction": "sum"}, "reduction is 'sum'"),
        ({"logits": [torch.zeros(2, 2)], "positives": "all"}, "positives is 'all'"),
        ({"logits": [torch.zeros(2, 2)], "positives": "same_label"}, r"shape \[2\]; got none"),
        ({"logits": [torch.zeros(2, 2)], "label_ids": torch.zeros(2)}, "ignores them"),
        ({"logits": [torch.zeros(2, 2)], "sample_weight": torch.ones(3)}, r"shape \[3\]; expected \[2\]"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairwise_contrastive_loss(**arguments)  # type: ignore[arg-type]


MIXED = Mixtures(
    torch.tensor([[0, 1], [1, 0], [2, -1], [3, 9], [4, 2]]),
    torch.tensor([[0.7, 0.3], [0.6, 0.4], [1.0, 0.0], [0.5, 0.5], [0.75, 0.25]], dtype=torch.float64),
)
ROWS = [[0.7, 0.3, 0, 0, 0], [0.4, 0.6, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0.25, 0, 0.75]]
"""Row 3 was mixed with a sample that is not in the batch."""


def soft_loss(logits: Tensor, by_row: np.ndarray, by_column: np.ndarray) -> float:
    """Cross-entropy with target distributions `[B, B]`, along rows plus along columns."""
    matrix = logits.numpy()
    rows = matrix - np.log(np.exp(matrix).sum(axis=1, keepdims=True))
    columns = matrix - np.log(np.exp(matrix).sum(axis=0, keepdims=True))
    return -float((by_row * rows + by_column * columns).sum()) / len(matrix)


def pair_loss(
    logits: Tensor, *, kind: LossKind = "softmax", smoothing: float = 0.0, **matching: Any
) -> float:
    batch = len(logits)
    loss = PairLoss(
        batch=batch, matches=find_matches(batch, **matching), kind=kind, label_smoothing=smoothing
    )
    return loss.part(lambda rows, columns: logits[rows, columns], slice(0, batch)).item()


def test_a_mixture_matches_its_samples_by_their_shares() -> None:
    (logits,) = random_logits(1)
    by_row = np.array(ROWS)
    by_column = by_row / by_row.sum(axis=0)
    # Column 0 has 0.7 of row 0 and 0.4 of row 1, column 2 all of row 2 and a quarter of row 4.
    assert by_column[:, 0] == pytest.approx([7 / 11, 4 / 11, 0, 0, 0])
    assert by_column[:, 2] == pytest.approx([0, 0, 0.8, 0, 0.2])
    matches = Matches.of(torch.arange(5), MIXED)
    np.testing.assert_allclose(matches.along_rows(slice(None)), by_row, atol=1e-15)
    np.testing.assert_allclose(matches.along_columns(slice(None)), by_column, atol=1e-15)
    assert pair_loss(logits, mixtures=MIXED) == pytest.approx(soft_loss(logits, by_row, by_column))


def test_a_mixture_matches_all_samples_with_the_labels_of_its_samples() -> None:
    """Samples 0 and 2 have the same label; label 9 is not in the batch."""
    ids = torch.tensor([7, 1, 7, 8, 2])
    mixtures = Mixtures(torch.tensor([[7, 1], [1, 7], [7, 7], [8, 9], [2, 8]]), MIXED.weights)
    by_row = np.array(
        [[0.35, 0.3, 0.35, 0, 0], [0.2, 0.6, 0.2, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 1, 0],
         [0, 0, 0, 0.25, 0.75]]
    )  # fmt: skip
    by_column = by_row / by_row.sum(axis=0)
    matches = Matches.of(ids, mixtures)
    np.testing.assert_allclose(matches.along_rows(slice(1, 4)), by_row[1:4], atol=1e-15)
    np.testing.assert_allclose(matches.along_columns(slice(1, 4)), by_column[:, 1:4], atol=1e-15)
    (logits,) = random_logits(1)
    loss = pair_loss(logits, positives="same_label", label_ids=ids, mixtures=mixtures)
    assert loss == pytest.approx(soft_loss(logits, by_row, by_column))


def test_targets_of_random_mixtures_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randint(0, 12, (40, 3), generator=generator)
    ids = mixed[:, 0]
    mixtures = Mixtures(mixed, torch.rand(40, 3, generator=generator, dtype=torch.float64))
    matches = Matches.of(ids, mixtures)
    ones = torch.ones(40, dtype=torch.float64)
    torch.testing.assert_close(matches.along_rows(slice(None)).sum(dim=1), ones)
    torch.testing.assert_close(matches.along_columns(slice(None)).sum(dim=0), ones)


def test_a_sample_without_a_share_in_any_row_matches_nothing() -> None:
    matches = Matches.of(torch.arange(2), Mixtures(torch.tensor([[0, 1], [1, 0]]), torch.eye(2)))
    assert matches.along_rows(slice(None)).tolist() == [[1, 0], [1, 0]]
    assert matches.along_columns(slice(None)).tolist() == [[0.5, 0], [0.5, 0]]
    # Its mixture has only a sample that is not in the batch.
    matches = Matches.of(torch.arange(1), Mixtures(torch.tensor([[0, 5]]), torch.tensor([[0.0, 1.0]])))
    assert matches.along_rows(slice(None)).tolist() == [[1]]


@pytest.mark.parametrize("mixtures", [None, MIXED])
def test_smoothed_targets_are_partly_uniform(mixtures: Mixtures | None) -> None:
    (logits,) = random_logits(1)
    by_row = np.eye(5) if mixtures is None else np.array(ROWS)
    by_row, by_column = (0.9 * targets + 0.1 / 5 for targets in (by_row, by_row / by_row.sum(axis=0)))
    assert by_row.sum(axis=1) == pytest.approx(np.ones(5))
    assert by_column.sum(axis=0) == pytest.approx(np.ones(5))
    loss = pair_loss(logits, smoothing=0.1, mixtures=mixtures)
    assert loss == pytest.approx(soft_loss(logits, by_row, by_column))


def test_smoothing_equals_torchs() -> None:
    (logits,) = random_logits(1)
    target = torch.arange(5)
    expected = sum(
        torch.nn.functional.cross_entropy(x, target, label_smoothing=0.2) for x in (logits, logits.T)
    )
    assert pair_loss(logits, smoothing=0.2) == pytest.approx(float(expected))


def sigmoid_loss(
    logits: Tensor, wanted: np.ndarray[Any, Any], weights: list[float] | None = None, smoothing: float = 0.0
) -> float:
    """Binary cross-entropies of all pairs, one at a time, divided by the size of the batch."""
    total, weight = 0.0, weights or [1.0] * len(logits)
    for i, row in enumerate(logits.tolist()):
        for j, value in enumerate(row):
            p = 1 / (1 + math.exp(-value))
            q = (1 - smoothing) * wanted[i, j] + smoothing / len(logits)
            total -= (weight[i] + weight[j]) / 2 * (q * math.log(p) + (1 - q) * math.log(1 - p))
    return total / sum(weight)


def test_the_sigmoid_loss_equals_that_of_the_paper() -> None:
    """The pseudocode of arXiv 2303.15343: labels are 1 on the diagonal, and -1 elsewhere."""
    (logits,) = random_logits(1)
    labels = 2 * torch.eye(5) - torch.ones(5, 5)
    expected = -torch.nn.functional.logsigmoid(labels * logits).sum() / 5
    assert pair_loss(logits, kind="sigmoid") == pytest.approx(float(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sigmoid_loss_has_the_shares_of_mixtures_as_probabilities(smoothing: float) -> None:
    (logits,) = random_logits(1)
    ids = torch.tensor([7, 1, 7, 8, 2])
    same = (ids[:, None] == ids).numpy()
    loss = pair_loss(logits, kind="sigmoid", smoothing=smoothing, positives="same_label", label_ids=ids)
    assert loss == pytest.approx(sigmoid_loss(logits, same, smoothing=smoothing))
    loss = pair_loss(logits, kind="sigmoid", smoothing=smoothing, mixtures=MIXED)
    assert loss == pytest.approx(sigmoid_loss(logits, np.array(ROWS), smoothing=smoothing))


def test_a_pair_has_the_mean_weight_of_its_samples_in_the_sigmoid_loss() -> None:
    (logits,) = random_logits(1)
    weights = [0.5, 1.0, 2.0, 0.0, 3.0]
    loss = PairLoss(batch=5, kind="sigmoid", sample_weight=torch.tensor(weights))
    found = loss.part(lambda rows, columns: logits[rows, columns], slice(0, 5))
    assert found.item() == pytest.approx(sigmoid_loss(logits, np.eye(5), weights))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("block", [None, 1, 2])
@pytest.mark.parametrize("mixed", [False, True])
def test_parts_and_blocks_add_up_to_the_loss_and_its_gradients(
    kind: LossKind, block: int | None, mixed: bool
) -> None:
    (logits,) = random_logits(1, batch=7)
    leaf = logits.requires_grad_()
    ids = torch.tensor([3, 1, 3, 3, 2, 1, 9])
    mixtures = Mixtures(torch.stack([ids, ids.roll(1)], dim=1), torch.tensor([[0.8, 0.2]] * 7))
    loss = PairLoss(
        batch=7,
        matches=Matches.of(ids, mixtures) if mixed else None,
        kind=kind,
        sample_weight=torch.arange(7.0) if mixed else None,
        label_smoothing=0.1 if mixed else 0.0,
    )

    def similarity(rows: slice, columns: slice) -> Tensor:
        return leaf[rows, columns]

    whole = loss.part(similarity, slice(0, 7), block=7)
    (expected,) = torch.autograd.grad(whole, leaf)
    owns = [slice(0, 3), slice(3, 3), slice(3, 6), slice(6, 7), slice(7, 7)]
    total = torch.stack([loss.part(similarity, own, block=block) for own in owns]).sum()
    (found,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(total, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_memory_is_that_of_a_block() -> None:
    features = torch.randn(64, 4, dtype=torch.float64, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def matrices(kind: LossKind, own: slice, block: int | None = None) -> float:
        """Measure the memory kept for the backward pass, in matrices of 64 x 64."""
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = PairLoss(batch=64, kind=kind).part(
                lambda rows, columns: features[rows] @ features[columns].T, own, block=block
            )
        loss.backward()
        return sum(size for size in kept.values() if size > features.nbytes) / (64 * 64 * 8)

    assert matrices("softmax", slice(0, 64)) == 2
    assert matrices("softmax", slice(16, 32)) == pytest.approx(2 / 4)
    assert matrices("softmax", slice(0, 64), block=16) == 0
    assert matrices("sigmoid", slice(16, 32)) == 0
