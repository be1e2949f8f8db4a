"""Masks of frames and frequencies, against loops in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.esresnet import ESResNeXt, SpectrogramMasks
from model.esresnet.masks import masked
from tests.small_backbone import clips, small_backbone

SHORT = {"n_fft": 256, "hop_length": 100, "win_length": 200, "num_classes": 7}
NOTHING = [[0.4, 0.4]]


def tower(**arguments: Any) -> ESResNeXt:
    torch.manual_seed(0)
    with small_backbone():
        return ESResNeXt(**{**SHORT, **arguments}).eval()


def masks_of(time: Any, frequency: Any) -> SpectrogramMasks:
    return SpectrogramMasks(torch.tensor(time), torch.tensor(frequency))


MASKS = masks_of(
    time=[[[0.1, 0.35], [0.3, 0.5]], [[0.9, 1.0], [0.2, 0.2]], [[0.0, 0.05], [0.61, 0.62]]],
    frequency=[[[0.3, 0.37]], [[0.0, 0.1]], [[0.95, 1.0]]],
)
"""Masks of three clips: overlapping, empty, at the ends, and across the border of two bands."""


def expected(image: Tensor, masks: SpectrogramMasks, *, two_sided: bool = False) -> tuple[Any, Any]:
    """Return the masked image and which of its elements are masked."""
    result, hidden = image.numpy().copy(), np.zeros(image.shape, bool)
    bands, height, width = image.shape[2:]
    rows = bands * height
    for clip, (time, frequency) in enumerate(zip(masks.time.numpy(), masks.frequency.numpy(), strict=True)):
        for start, end in time:
            for column in range(width):
                if start <= np.float32((column + 0.5) / width) < end:
                    hidden[clip, :, :, :, column] = True
        for start, end in frequency:
            for row in range(rows):
                at = (row + 0.5) / rows
                if start <= np.float32(abs(2 * at - 1) if two_sided else at) < end:
                    hidden[clip, :, row // height, row % height] = True
        result[clip][hidden[clip]] = image[clip].numpy().mean()
    return result, hidden


@pytest.mark.parametrize(
    ("arguments", "channels"),
    [({}, 1), ({"spectrum": "stft", "spec_height": 50, "spec_width": 37}, 2), ({"onesided": False}, 2)],
)
@torch.no_grad()
def test_masked_parts_have_the_mean_level_of_the_clip(arguments: dict[str, Any], channels: int) -> None:
    module, audio = tower(**arguments).double(), clips(3, channels).double()
    audio[1] *= 1e-3  # each clip has its own level
    image = module.decibels(audio)
    two_sided = arguments.get("onesided") is False
    values, hidden = expected(image, MASKS, two_sided=two_sided)
    found = module.decibels(audio, masks=MASKS)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), values, rtol=0, atol=1e-11)
    assert np.array_equal(found.numpy()[~hidden], image.numpy()[~hidden])
    shares = hidden.mean(axis=(1, 2, 3, 4))
    assert shares == pytest.approx([1 - 0.6 * 0.93, 1 - 0.9 * 0.9, 1 - 0.94 * 0.95], abs=0.03)


def test_both_sides_of_a_two_sided_spectrum_are_masked() -> None:
    image = torch.randn(1, 1, 3, 40, 5, generator=torch.Generator().manual_seed(0))
    masks = masks_of(time=[NOTHING], frequency=[[[0.5, 0.75]]])
    hidden = (masked(image, masks, two_sided=True) != image)[0, 0].flatten(0, 1).all(dim=1)
    assert torch.equal(hidden, hidden.flip(0))
    assert hidden.nonzero().flatten().tolist() == [*range(15, 30), *range(90, 105)]


def test_only_visible_parts_have_a_gradient() -> None:
    image = torch.randn(3, 2, 3, 10, 20, dtype=torch.float64, requires_grad=True)
    _, hidden = expected(image.detach(), MASKS)
    (gradient,) = torch.autograd.grad(masked(image, MASKS).sum(), image)
    assert np.array_equal(gradient.numpy(), ~hidden)


def test_a_clip_that_is_masked_entirely_teaches_the_wavelets_nothing() -> None:
    module = tower()
    assert module.fbsp is not None
    features = module.forward_with_penalty(
        clips(2), masks=masks_of([[[0.0, 1.0]]] * 2, [NOTHING] * 2)
    ).features
    gradients = torch.autograd.grad(features.sum(), [module.fbsp.fc, module.conv1.weight])
    assert not gradients[0].any()
    assert gradients[1].any()


def test_features_depend_on_the_masks_of_their_own_clip_alone() -> None:
    module, audio = tower().double(), clips(3).double()
    together, penalty = module.forward_with_penalty(audio, masks=MASKS)
    for row in range(3):
        own = SpectrogramMasks(*(ranges[row : row + 1] for ranges in MASKS))
        alone = module.forward_with_penalty(audio[row : row + 1], masks=own).features
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-10)
    plain = module.forward_with_penalty(audio)
    assert (together - plain.features).abs().amax(dim=1).min() > 1e-6
    assert torch.equal(penalty, plain.penalty)


@pytest.mark.parametrize("training", [False, True])
def test_without_a_masked_part_features_are_the_same_bit_for_bit(training: bool) -> None:
    module, audio = tower().train(training), clips(2)
    plain = module(audio)
    assert torch.equal(module.forward_with_penalty(audio).features, plain)
    for masks in (masks_of([NOTHING] * 2, [NOTHING] * 2), SpectrogramMasks(*torch.empty(2, 2, 0, 2))):
        assert torch.equal(module.forward_with_penalty(audio, masks=masks).features, plain)


def test_activations_are_recomputed_with_the_same_masks() -> None:
    found = []
    for recomputed in (False, True):
        module = tower()
        if recomputed:
            module.recompute_activations()
        features = module.forward_with_penalty(clips(3), masks=MASKS).features
        assert module.fbsp is not None
        found.append((features, *torch.autograd.grad(features.sum(), [module.fbsp.fc, module.conv1.weight])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_autocast_does_not_round_the_masked_image() -> None:
    module = tower()
    image = module.decibels(clips(3), masks=MASKS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.decibels(clips(3), masks=MASKS), image)


@pytest.mark.parametrize(
    ("time", "shape"),
    [([NOTHING] * 3, r"\[3, 1, 2\]"), ([NOTHING], r"\[1, 1, 2\]"), ([[0.1]] * 2, r"\[2, 1\]")],
)
def test_masks_of_other_clips_are_refused(time: Any, shape: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^masks\.time has shape {shape}; expected \[2, n, 2\]: starts and"
    ):
        tower().forward_with_penalty(clips(2), masks=masks_of(time, [NOTHING] * 2))
