"""Transforms of pictures `[3, H, W]`, alone or in batches, by the functions of torchvision's v2.

```text
worker   OneImage           several pictures, or one of any size   ->  one, uint8 [3, height, width]
device   RandomImageCrop    training                               ->  [B, 3, size, size]
device   FitImage           evaluation                             ->  [B, 3, size, size]
device   RandomImageFlip, NormaliseImage
```

Each random decision about a sample comes from its own stream of random numbers and is taken on the CPU; the
pictures stay on their device.
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
"""Height and width in pixels; a number means both."""

Interpolation = Literal["bicubic", "bilinear"]

_LARGEST = 10_000


class OneImage:
    """Make of whatever pictures a sample has one of a given size, so that a batch can be made of them.

    Of several pictures (`Frames`) one is chosen and decoded. It is scaled until it
    covers the size, and the middle is kept. Takes one sample at a time, so it runs where samples are loaded,
    and precedes what runs on the device.

    Args:
        size: of the result. For training choose it somewhat larger than what `RandomImageCrop` makes of it,
            and as wide as most pictures are, such as [256, 455].
        train: choose at random, each equally probable; otherwise the one in the middle.
        interpolation: "bicubic" or "bilinear".
    """

    def __init__(self, size: Size, *, train: bool = True, interpolation: Interpolation = "bicubic") -> None:
        self._size, self._interpolation = _checked_size(size), _checked_interpolation(interpolation)
        self.train = train

    def __call__(self, picture: Tensor | Frames) -> Tensor:
        """Choose and scale; the choice is a function of torch's global generator, which the loader seeds."""
        if isinstance(picture, Frames):
            count = torch.tensor([len(picture)])
            number = int(SampleRandom.from_torch().integers(count)[0]) if self.train else picture.central
            picture = picture[number]
        return _cover(_images(picture, axes=3), self._size, self._interpolation)


class FitImage(BatchTransform):
    """Scale pictures until they cover a size, and keep the middle, as CLIP does before it embeds them.

    Args:
        size: of the result.
        interpolation: "bicubic" or "bilinear".
    """

    def __init__(self, size: Size = 224, *, interpolation: Interpolation = "bicubic") -> None:
        self._size, self._interpolation = _checked_size(size), _checked_interpolation(interpolation)

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Scale and crop every picture."""
        values = _images(batch.values)
        if int(batch.lengths.min()) == values.shape[-1]:
            return _of_one_width(_cover(values, self._size, self._interpolation))
        return _of_one_width(
            torch.stack([_cover(one, self._size, self._interpolation) for one in _each(batch)])
        )


class RandomImageCrop(BatchTransform):
    """Cut a random part out of each picture, of random area and shape, and scale it to a size.

    The area is uniform, the ratio of width to height uniform in its logarithm, the place uniform. A part that
    would not fit is cut short to the picture. (torchvision's `RandomResizedCrop` draws anew instead.)

    Args:
        size: of the result.
        scale: smallest and largest area, as share of the picture, within 0..1. open_clip trains with 0.9..1.
        ratio: smallest and largest width by height.
        interpolation: "bicubic" or "bilinear".
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
        """Cut and scale every picture."""
        height, widths = _images(batch.values).shape[-2], batch.lengths
        area = random.uniform(*self._scale) * height * widths
        ratio = random.uniform(math.log(self._ratio[0]), math.log(self._ratio[1])).exp()
        cut_widths = (area * ratio).sqrt().round().long().clamp(min=1).minimum(widths)
        cut_heights = (area / ratio).sqrt().round().long().clamp(1, height)
        left = random.integers(widths - cut_widths + 1)
        top = random.integers(height - cut_heights + 1)
        boxes = torch.stack([top, left, cut_heights, cut_widths], dim=1).tolist()
        cut = [
            _resize(one[:, y : y + h, x : x + w], self._size, self._interpolation)
            for one, (y, x, h, w) in zip(batch.values, boxes, strict=True)
        ]
        return _of_one_width(torch.stack(cut))


class RandomImageFlip(BatchTransform):
    """Mirror pictures, left to right.

    Args:
        p: probability that a picture is mirrored, 0..1.
    """

    def __init__(self, p: float = 0.5) -> None:
        if type(p) not in (int, float) or not 0 <= p <= 1:
            raise ValueError(f"p is {p!r}; a probability lies in 0..1.")
        self.p = p

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        """Mirror the pictures that are chosen, which are all of one size."""
        values, chosen = _images(batch.values), random.uniform() < self.p
        if int(batch.lengths.min()) != values.shape[-1]:
            raise ValueError("pictures of one batch differ in width; put OneImage or FitImage before.")
        chosen = chosen[:, None, None, None].to(values.device, non_blocking=True)
        return PaddedBatch(torch.where(chosen, values.flip(-1), values), batch.lengths)


class NormaliseImage(BatchTransform):
    """Make pictures what an image tower takes: float32, less a mean and divided by a deviation.

    Args:
        mean, std: of red, green and blue in 0..1; None: those of the model.
        clip: name of a model of open_clip; None: OpenAI's CLIP.
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
                f"mean is {mean} and std is {std}; three numbers each are expected, of std above 0."
            )

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:  # noqa: ARG002 (not random)
        """Normalise every picture: uint8 of 0..255, or floating-point of 0..1."""
        from torchvision.transforms.v2 import functional

        values = functional.to_dtype(_images(batch.values), torch.float32, scale=True)
        return PaddedBatch(functional.normalize(values, list(self._mean), list(self._std)), batch.lengths)


def _cover(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Scale `[..., H, W]` until both sides are at least those of `size`, and keep the middle."""
    from torchvision.transforms.v2 import functional

    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    factor = max(size[0] / height, size[1] / width)
    # int, as torchvision has it; the side that decides may come out a rounding error short.
    scaled = max(size[0], int(height * factor)), max(size[1], int(width * factor))
    kept: Tensor = functional.center_crop(_resize(images, scaled, interpolation), list(size))
    return kept


def _resize(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(images, list(size), InterpolationMode(interpolation), antialias=True)
    return resized


def _each(batch: PaddedBatch) -> list[Tensor]:
    """The pictures of a batch without padding, each `[3, H, W]`."""
    return [one[..., :width] for one, width in zip(batch.values, batch.lengths.tolist(), strict=True)]


def _of_one_width(values: Tensor) -> PaddedBatch:
    return PaddedBatch(values, torch.full((len(values),), values.shape[-1]))


def _images(values: Tensor, *, axes: int = 4) -> Tensor:
    if (
        values.ndim != axes
        or values.shape[-3] != 3
        or not (values.is_floating_point() or values.dtype == torch.uint8)
    ):
        raise ValueError(
            f"values are {values.dtype} {list(values.shape)}; a picture is uint8 or floating-point "
            "[3, H, W], in a batch [B, 3, H, W]."
        )
    return values


def _checked_size(size: object) -> tuple[int, int]:
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or any(type(side) is not int or not 0 < side <= _LARGEST for side in sides):
        raise ValueError(f"size is {size!r}; pixels, or [height, width], of at most {_LARGEST} are expected.")
    return sides[0], sides[1]


def _checked_interpolation(interpolation: Interpolation) -> Interpolation:
    if interpolation not in get_args(Interpolation):
        raise ValueError(f'interpolation is {interpolation!r}; "bicubic" and "bilinear" are possible.')
    return interpolation


def _checked_range(name: str, given: Sequence[float], largest: float) -> tuple[float, float]:
    numbers = list(given) if isinstance(given, list | tuple) else []
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= largest:
        raise ValueError(f"{name} is {given!r}; [smallest, largest] within 0..{largest:g} is expected.")
    return numbers[0], numbers[1]
