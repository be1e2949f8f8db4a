"""Contrastive tasks match mixtures with the texts and images of their samples, as computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ignite_trainer.api.batch import Mixed, PartialBatch
from model.audioclip import AudioCLIP
from model.matches import Matches
from tests.utils.tasks.test_tasks import loss_of
from tests.utils.tasks.test_three_modalities import (
    PAIRS,
    audioclip,
    embedded,
    pair_logits,
    pair_loss,
    partial,
    pictures,
    sounds,
)
from utils.datasets import Sample
from utils.datasets.sample import DescribedSample
from utils.tasks import AudioTextContrastive, Contrastive
from utils.tasks.mixing import mixtures_of, own_values, weights_of

__all__ = ["audioclip"]

LABELS = [["dog"], ["rain"], ["wind"], ["siren"], ["dog"], ["thunder"]]
POSITIONS = [40, 41, 52, 53, 64, 65]
SHARES = [0.75, 0.5, 1.0, 0.6, 0.7, 0.9]
PARTNERS = [1, 0, None, 2, 5, None]
"""Sample 2 is unmixed; sample 5 was mixed with a sample that is not in the batch."""


def mixed(values: list[Any], *, absent: Any = ("cat",)) -> list[Mixed]:
    """Mix each value with that of its partner; `absent` is the value of the missing partner."""
    rows = []
    for row, (value, share, partner) in enumerate(zip(values, SHARES, PARTNERS, strict=True)):
        if share == 1.0:
            rows.append(Mixed((value,), (1.0,), (POSITIONS[row],)))
            continue
        other, position = (absent, 99) if partner is None else (values[partner], POSITIONS[partner])
        rows.append(Mixed((value, other), (share, 1 - share), (POSITIONS[row], position)))
    return rows


DIAGONAL = np.array(
    [
        [0.75, 0.25, 0, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0.4, 0.6, 0, 0],
        [0, 0, 0, 0, 0.7, 0.3],
        [0, 0, 0, 0, 0, 1],
    ]
)
SAME_LABEL = DIAGONAL.copy()
SAME_LABEL[:, 0] = SAME_LABEL[:, 4] = DIAGONAL[:, [0, 4]].sum(axis=1) / 2  # both are dogs


def soft_loss(
    logits: Tensor, matches: np.ndarray[Any, Any], smoothing: float = 0.0, weights: list[float] | None = None
) -> float:
    """Compute the loss of a pair from the matches, rows of which sum to 1."""
    matrix, size = logits.detach().double().numpy(), len(logits)
    weight = np.ones(size) if weights is None else np.array(weights)
    total = 0.0
    for axis in (1, 0):
        logs = matrix - np.log(np.exp(matrix).sum(axis=axis, keepdims=True))
        target = (1 - smoothing) * matches / matches.sum(axis=axis, keepdims=True) + smoothing / size
        assert target.sum(axis=axis) == pytest.approx(np.ones(size))
        total -= float((weight * (target * logs).sum(axis=axis)).sum() / weight.sum())
    return total


@pytest.mark.parametrize(("positives", "matches"), [("diagonal", DIAGONAL), ("same_label", SAME_LABEL)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_audio_matches_the_texts_of_its_samples(
    audioclip: AudioCLIP, positives: Any, matches: np.ndarray[Any, Any], smoothing: float
) -> None:
    task = AudioTextContrastive(positives=positives, label_smoothing=smoothing)
    batch = Sample(sounds(), None, mixed(LABELS))
    features = embedded(audioclip, LABELS)
    logits = pair_logits(audioclip, features, ("audio", "text"), list(range(6)))
    loss = loss_of(task.training_step(audioclip, batch)) - audioclip.audio.wavelet_penalty()
    assert float(loss.detach()) == pytest.approx(soft_loss(logits, matches, smoothing), abs=1e-10)


def test_class_weights_are_averaged_by_the_shares(audioclip: AudioCLIP) -> None:
    weights = {"dog": 1.0, "rain": 2.0, "wind": 3.0, "siren": 4.0, "thunder": 5.0, "cat": 6.0}
    rows = mixed(LABELS)
    expected = [1.25, 1.5, 3.0, 3.6, 0.7 + 1.5, 5.1]
    assert weights_of(rows, weights).tolist() == pytest.approx(expected)
    assert weights_of(LABELS, weights).tolist() == [1, 2, 3, 4, 1, 5]
    task = AudioTextContrastive(class_weights=weights)
    logits = pair_logits(audioclip, embedded(audioclip, LABELS), ("audio", "text"), list(range(6)))
    loss = loss_of(task.training_step(audioclip, Sample(sounds(), None, rows)))
    found = float((loss - audioclip.audio.wavelet_penalty()).detach())
    assert found == pytest.approx(soft_loss(logits, DIAGONAL, weights=expected), abs=1e-6)


@pytest.mark.parametrize(("positives", "matches"), [("diagonal", DIAGONAL), ("same_label", SAME_LABEL)])
def test_only_audio_is_mixed(audioclip: AudioCLIP, positives: Any, matches: np.ndarray[Any, Any]) -> None:
    task = Contrastive(positives=positives, label_smoothing=0.2)
    batch = Sample(sounds(), pictures(), mixed(LABELS))
    features = embedded(audioclip, LABELS)
    unmixed = np.array([[a == b for b in LABELS] for a in LABELS]) if positives == "same_label" else np.eye(6)
    unmixed = unmixed / unmixed.sum(axis=1, keepdims=True)
    losses = [
        soft_loss(
            pair_logits(audioclip, features, pair, list(range(6))),
            matches if pair[0] == "audio" else unmixed,
            smoothing=0.2,
        )
        for pair in PAIRS
    ]
    assert pair_loss(audioclip, task, batch) == pytest.approx(np.mean(losses), abs=1e-12)


def test_a_pair_has_the_matches_of_samples_with_both_modalities(audioclip: AudioCLIP) -> None:
    """Sample 1 has no image, and sample 5 no text, so others in the mixture have their shares."""
    captions = mixed([*(f"caption {row}" for row in range(5)), None], absent=None)[:5]
    batch = DescribedSample(
        sounds(),
        partial(pictures(), 0, 2, 3, 4, 5),
        mixed([[]] * 6, absent=None),
        PartialBatch(torch.arange(5), captions),
    )
    features = embedded(audioclip, [f"caption {row}" for row in range(6)])
    with_image, with_text = [0, 2, 3, 4, 5], [0, 1, 2, 3, 4]
    by_image, by_text = DIAGONAL[np.ix_(with_image, with_image)], DIAGONAL[np.ix_(with_text, with_text)]
    by_image[0], by_text[4] = np.eye(5)[0], np.eye(5)[4]
    losses = [
        soft_loss(pair_logits(audioclip, features, PAIRS[0], with_image), by_image),
        soft_loss(pair_logits(audioclip, features, PAIRS[1], with_text), by_text),
        soft_loss(pair_logits(audioclip, features, PAIRS[2], [0, 2, 3, 4]), np.eye(4)),
    ]
    assert pair_loss(audioclip, Contrastive(), batch) == pytest.approx(np.mean(losses), abs=1e-12)
    # Each sample has its own caption, so equal labels change nothing.
    same = Contrastive(positives="same_label")
    assert pair_loss(audioclip, same, batch) == pytest.approx(np.mean(losses), abs=1e-12)


@pytest.mark.parametrize("positives", ["diagonal", "same_label"])
def test_captions_tell_what_is_mixed_even_if_the_task_does_not_compare_them(
    audioclip: AudioCLIP, positives: Any
) -> None:
    captions = mixed(["a sound"] * 6, absent="a sound")
    batch = DescribedSample(sounds(), pictures(), None, captions)
    logits = pair_logits(audioclip, embedded(audioclip, ["unused"] * 6), PAIRS[0], list(range(6)))
    task = Contrastive(modalities=["audio", "image"], positives=positives)
    # The captions are equal, but this task does not see them, so each sample matches itself.
    assert pair_loss(audioclip, task, batch) == pytest.approx(soft_loss(logits, DIAGONAL), abs=1e-12)


def test_autocast_does_not_round_the_weights_of_mixtures() -> None:
    weights = {name: 1 / 3 for labels in [*LABELS, ["cat"]] for name in labels}
    with torch.autocast("cpu", torch.bfloat16):
        found = weights_of(mixed(LABELS), weights)
    torch.testing.assert_close(found, torch.full((6,), 1 / 3), rtol=0, atol=1e-7)


def test_unmixed_samples_have_the_loss_of_a_batch_without_mixing(audioclip: AudioCLIP) -> None:
    rows = [Mixed((names,), (1.0,), (position,)) for names, position in zip(LABELS, POSITIONS, strict=True)]
    assert own_values(rows) == own_values(LABELS) == LABELS
    options: list[dict[str, Any]] = [{"positives": "diagonal"}, {"positives": "same_label"}]
    for option in options:
        for task in (AudioTextContrastive(**option), Contrastive(**option)):
            found, expected = (
                loss_of(task.training_step(audioclip, Sample(sounds(), None, labels)))
                for labels in (rows, LABELS)
            )
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_sample_that_occurs_several_times_shares_its_part() -> None:
    rows = [
        Mixed((["dog"], ["rain"]), (0.6, 0.4), (1, 2)),
        Mixed((["rain"],), (1.0,), (2,)),
        Mixed((["rain"],), (1.0,), (2,)),
    ]
    mixtures = mixtures_of(rows, by_label=False)
    assert mixtures is not None
    found = Matches.of(torch.arange(3), mixtures).along_rows(slice(None))
    torch.testing.assert_close(
        found, torch.tensor([[0.6, 0.2, 0.2], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", [AudioTextContrastive, Contrastive])
@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_leaves_a_part_of_the_targets(kind: Any, smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing is {smoothing}; it must be at least 0 and less"):
        kind(label_smoothing=smoothing)
