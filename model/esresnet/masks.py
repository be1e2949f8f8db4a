"""Masks of whole frames and frequencies in the image that enters the backbone, for training."""

from typing import NamedTuple

import torch
from torch import Tensor


class SpectrogramMasks(NamedTuple):
    """Masked ranges of B clips: SpecAugment (arXiv 1904.08779, section 2) without time warping.

    A range is a pair of start and end, as fractions 0..1 of the axis. It covers the frames or frequency rows
    whose centres lie in it; the end is excluded. Ranges may overlap, and all channels of a clip share them.
    """

    time: Tensor
    """Masked ranges of time, float32 `[B, n, 2]`; from the first frame (0) to the last (1)."""
    frequency: Tensor
    """Masked ranges of frequency, float32 `[B, m, 2]`; from the bottom of the lowest band (0) to the top of
    the highest (1). In a two-sided spectrum 0 is the middle, and ranges cover both sides."""


def refuse_other_masks(masks: SpectrogramMasks, *, clips: int) -> None:
    """Raise ValueError if `masks` are not those of `clips` clips."""
    for name, ranges in masks._asdict().items():
        if ranges.dim() != 3 or ranges.shape[0] != clips or ranges.shape[2] != 2:
            raise ValueError(
                f"masks.{name} has shape {list(ranges.shape)}; expected [{clips}, n, 2]: starts and ends of "
                "n ranges for each clip."
            )


def masked(image: Tensor, masks: SpectrogramMasks, *, two_sided: bool = False) -> Tensor:
    """Replace masked elements by the mean of their clip's image.

    The mean over all channels, bands and frames is the level that a centred image has at 0, which is the
    value of the masks in SpecAugment. It is a constant for the gradient, so masked elements have none.

    Args:
        image: decibels `[B, C, 3, H, W]`.
        masks: masks of the B clips, on the image's device.
        two_sided: whether the rows go from the highest frequency down to 0 and up again.

    Returns:
        Masked image, with the shape and dtype of `image`.
    """
    bands, height, width = image.shape[2:]
    centres = torch.arange(bands * height, device=image.device) + 0.5
    if two_sided:
        centres = (2 * centres - bands * height).abs()
    rows = _covered(centres, masks.frequency, length=bands * height)  # [B, 3H]
    columns = _covered(torch.arange(width, device=image.device) + 0.5, masks.time, length=width)  # [B, W]
    hidden = rows.unflatten(1, (bands, height))[:, None, ..., None] | columns[:, None, None, None]
    level = image.detach().mean(dim=(1, 2, 3, 4), keepdim=True)
    return torch.where(hidden, level, image)


def _covered(centres: Tensor, ranges: Tensor, *, length: int) -> Tensor:
    """Find the `centres`, `[L]`, within any of the ranges, `[B, n, 2]` in fractions of `length`: `[B, L]`."""
    start, end = (ranges * length).unsqueeze(-2).unbind(-1)  # [B, n, 1]
    return ((start <= centres) & (centres < end)).any(dim=1)
