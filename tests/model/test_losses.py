"""The contrastive loss equals plain loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses import label_ids_of, pairwise_contrastive_loss, sample_weights
from model.matches import Matches, Mixtures


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


def test_a_mixture_matches_its_samples_by_their_shares() -> None:
    logits = random_logits(2)
    by_row = np.array(ROWS)
    by_column = by_row / by_row.sum(axis=0)
    # Column 0 has 0.7 of row 0 and 0.4 of row 1, column 2 all of row 2 and a quarter of row 4.
    assert by_column[:, 0] == pytest.approx([7 / 11, 4 / 11, 0, 0, 0])
    assert by_column[:, 2] == pytest.approx([0, 0, 0.8, 0, 0.2])
    matches = Matches.of(torch.arange(5), MIXED)
    np.testing.assert_allclose(matches.along_rows(slice(None)), by_row, atol=1e-15)
    np.testing.assert_allclose(matches.along_columns(slice(None)), by_column, atol=1e-15)
    expected = sum(soft_loss(pair, by_row, by_column) for pair in logits) / 2
    assert pairwise_contrastive_loss(logits, mixtures=MIXED).item() == pytest.approx(expected)


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
    loss = pairwise_contrastive_loss([logits], positives="same_label", label_ids=ids, mixtures=mixtures)
    assert loss.item() == pytest.approx(soft_loss(logits, by_row, by_column))


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
    logits = random_logits(1)
    by_row = np.eye(5) if mixtures is None else np.array(ROWS)
    by_row, by_column = (0.9 * targets + 0.1 / 5 for targets in (by_row, by_row / by_row.sum(axis=0)))
    assert by_row.sum(axis=1) == pytest.approx(np.ones(5))
    assert by_column.sum(axis=0) == pytest.approx(np.ones(5))
    loss = pairwise_contrastive_loss(logits, mixtures=mixtures, label_smoothing=0.1)
    assert loss.item() == pytest.approx(soft_loss(logits[0], by_row, by_column))


def test_smoothing_equals_torchs() -> None:
    (logits,) = random_logits(1)
    target = torch.arange(5)
    expected = sum(
        torch.nn.functional.cross_entropy(x, target, label_smoothing=0.2) for x in (logits, logits.T)
    )
    torch.testing.assert_close(pairwise_contrastive_loss([logits], label_smoothing=0.2), expected)
