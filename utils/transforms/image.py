"""Transforms of images `[3, H, W]`, single or in batches, built on torchvision's v2 functions.

```text
worker   OneImage           one or several images of any size      ->  uint8 [3, height, width]
device   RandomImageCrop    training                               ->  [B, 3, size, size]
device   FitImage           evaluation                             ->  [B, 3, size, size]
device   RandomImageFlip, NormaliseImage
```

Each sample has its own random stream, which makes every random decision about it. Decisions are made on the
CPU; the images stay on their device.
"""

# ruff: noqa: PLC0415 (torchvision takes seconds to import)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ignite_trainer.api.batch import BatchTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from model.clip.image_input import CLIP_PREPROCESSING
from utils.datasets.sources.frames import Frames

Size = int | Sequence[int]
"""Height and width in pixels, or a single number for both."""

Interpolation = Literal["bicubic", "bilinear"]

_MAX_SIDE = 10_000  # pixels


class OneImage:
    """Reduce a sample to one image of a fixed size, so that samples can be batched.

    Chooses and decodes one of several images (`Frames`), scales it until it covers the size, and crops the
    centre. It works on single samples and therefore runs in the loader, before the transforms on the device.

    Args:
        size: size of the result. For training, choose a size somewhat larger than `RandomImageCrop`'s, with
            the aspect ratio of most images, e.g. [256, 455].
        train: whether to choose an image uniformly at random; if not, the central image is used.
        interpolation: interpolation mode, "bicubic" or "bilinear".
    """

    def __init__(self, size: Size, *, train: bool = True, interpolation: Interpolation = "bicubic") -> None:
        self._size, self._interpolation = _checked_size(size), _checked_interpolation(interpolation)
        self.train = train

    def __call__(self, picture: Tensor | Frames) -> Tensor:
        """Choose and scale an image, drawing from torch's global generator, which the loader seeds."""
        if isinstance(picture, Frames):
            count = torch.tensor([len(picture)])
            number = int(SampleRandom.from_torch().integers(count)[0]) if self.train else picture.central
            picture = picture[number]
        return _cover(_images(picture, axes=3), self._size, self._interpolation)


class FitImage(BatchTransform):
    """Scale images until they cover a size, and crop the centre, as CLIP does.

    Args:
        size: size of the result.
        interpolation: interpolation mode, "bicubic" or "bilinear".
    """

    def __init__(self, size: Size = 224, *, interpolation: Interpolation = "bicubic") -> None:
        self._size, self._interpolation = _checked_size(size), _checked_interpolation(interpolation)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Scale and crop every image."""
        values = _images(batch.values)
        if int(batch.lengths.min()) == values.shape[-1]:
            return _unpadded(_cover(values, self._size, self._interpolation))
        widths = batch.lengths.tolist()
        pictures = [picture[..., :width] for picture, width in zip(values, widths, strict=True)]
        return _unpadded(
            torch.stack([_cover(picture, self._size, self._interpolation) for picture in pictures])
        )


class RandomImageCrop(BatchTransform):
    """Crop a random region with a random area and aspect ratio from each image, and scale it to a size.

    The area, the logarithm of the aspect ratio, and the position are uniformly distributed. A region that
    exceeds the image is clipped. (torchvision's `RandomResizedCrop` resamples it instead.)

    Args:
        size: size of the result.
        scale: minimum and maximum area, as a fraction of the picture's, 0..1. open_clip trains with 0.9..1.
        ratio: minimum and maximum aspect ratio, width divided by height.
        interpolation: interpolation mode, "bicubic" or "bilinear".
    """

    def __init__(
        self,
        size: Size = 224,
        *,
        scale: Sequence[float] = (0.9, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bicubic",
    ) -> None:
        self._size, self._interpolation = _checked_size(size), _checked_interpolation(interpolation)
        self._scale, self._ratio = _checked_range("scale", scale, 1.0), _checked_range("ratio", ratio, 100.0)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Crop and scale every image."""
        height, widths = _images(batch.values).shape[-2], batch.lengths
        area = random.uniform(*self._scale) * height * widths
        ratio = random.uniform(math.log(self._ratio[0]), math.log(self._ratio[1])).exp()
        cut_widths = (area * ratio).sqrt().round().long().clamp(min=1).minimum(widths)
        cut_heights = (area / ratio).sqrt().round().long().clamp(1, height)
        left = random.integers(widths - cut_widths + 1)
        top = random.integers(height - cut_heights + 1)
        boxes = torch.stack([top, left, cut_heights, cut_widths], dim=1).tolist()
        cut = [
            _resize(picture[:, y : y + h, x : x + w], self._size, self._interpolation)
            for picture, (y, x, h, w) in zip(batch.values, boxes, strict=True)
        ]
        return _unpadded(torch.stack(cut))


class RandomImageFlip(BatchTransform):
    """Mirror images horizontally.

    Args:
        p: probability of mirroring an image, 0..1.
    """

    def __init__(self, p: float = 0.5) -> None:
        if type(p) not in (int, float) or not 0 <= p <= 1:
            raise ValueError(f"p is {p!r}; it must be between 0 and 1.")
        self.p = p

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Mirror the chosen images; all must have the same size."""
        values, chosen = _images(batch.values), random.uniform() < self.p
        if int(batch.lengths.min()) != values.shape[-1]:
            raise ValueError("The images in a batch differ in width; put OneImage or FitImage first.")
        chosen = chosen[:, None, None, None].to(values.device, non_blocking=True)
        return PaddedBatch(torch.where(chosen, values.flip(-1), values), batch.lengths)


class NormaliseImage(BatchTransform):
    """Normalise images for an image tower, as float32, by the mean and standard deviation of each channel.

    Args:
        mean, std: mean and standard deviation of red, green and blue, 0..1; None for the values that the
            model was trained with.
        clip: name of an open_clip model; None for OpenAI's CLIP.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        clip: str | None = None,
    ) -> None:
        preprocessing = CLIP_PREPROCESSING
        if clip is not None:
            from model.clip.towers import image_preprocessing

            preprocessing = image_preprocessing(clip)
        self._mean, self._std = tuple(mean or preprocessing.mean), tuple(std or preprocessing.std)
        if len(self._mean) != 3 or len(self._std) != 3 or min(self._std) <= 0:
            raise ValueError(
                f"mean is {mean} and std is {std}; each must be three numbers, and std must be positive."
            )

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Normalise each image, uint8 in 0..255 or floating-point in 0..1."""
        from torchvision.transforms.v2 import functional

        values = functional.to_dtype(_images(batch.values), torch.float32, scale=True)
        return PaddedBatch(functional.normalize(values, list(self._mean), list(self._std)), batch.lengths)


def _cover(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Scale `[..., H, W]` until it covers `size`, and crop the centre."""
    from torchvision.transforms.v2 import functional

    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    factor = max(size[0] / height, size[1] / width)
    # int, as in torchvision; rounding may leave the deciding side one pixel short.
    scaled = max(size[0], int(height * factor)), max(size[1], int(width * factor))
    kept: Tensor = functional.center_crop(_resize(images, scaled, interpolation), list(size))
    return kept


def _resize(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(images, list(size), InterpolationMode(interpolation), antialias=True)
    return resized


def _unpadded(values: Tensor) -> PaddedBatch:
    return PaddedBatch(values, torch.full((len(values),), values.shape[-1]))


def _images(values: Tensor, *, axes: int = 4) -> Tensor:
    if (
        values.ndim != axes
        or values.shape[-3] != 3
        or not (values.is_floating_point() or values.dtype == torch.uint8)
    ):
        raise ValueError(
            f"values are {values.dtype} {list(values.shape)}; images must be uint8 or floating-point "
            "[3, H, W], or [B, 3, H, W] in a batch."
        )
    return values


def _checked_size(size: object) -> tuple[int, int]:
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or any(type(side) is not int or not 0 < side <= _MAX_SIDE for side in sides):
        raise ValueError(
            f"size is {size!r}; it must be a number of pixels, or [height, width], of at most {_MAX_SIDE}."
        )
    return sides[0], sides[1]


def _checked_interpolation(interpolation: Interpolation) -> Interpolation:
    if interpolation not in get_args(Interpolation):
        raise ValueError(f'interpolation is {interpolation!r}; it must be "bicubic" or "bilinear".')
    return interpolation


def _checked_range(name: str, given: Sequence[float], largest: float) -> tuple[float, float]:
    numbers = list(given) if isinstance(given, list | tuple) else []
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= largest:
        raise ValueError(f"{name} is {given!r}; it must be [smallest, largest] between 0 and {largest:g}.")
    return numbers[0], numbers[1]
