"""Pictures to CLIP's input: decoding, resizing, cropping and normalising, nothing learned."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from torch import Tensor

ImageInput: TypeAlias = str | Path | Image.Image | npt.NDArray[np.uint8]


def read_image(source: ImageInput) -> Image.Image:
    """Take a path, a PIL image or an array, and return an RGB image.

    Args:
        source: arrays are uint8, `[H, W]` or `[H, W, 3]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not decode, or the array is of another kind.
    """
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2:
            raise ValueError(
                f"Image array is {source.dtype} {list(source.shape)}; expected uint8 [H, W] or [H, W, 3]."
            )
        return Image.fromarray(source).convert("RGB")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not decodable as an image ({error}).") from error


def preprocess_image(source: ImageInput, *, resolution: int = 224) -> Tensor:
    """Prepare a picture for `AudioCLIP.encode_image` as CLIP was trained: bicubic resize, centre crop.

    Args:
        source: see `read_image`.
        resolution: height and width of the result, pixels.

    Returns:
        float32 `[3, resolution, resolution]`, normalised by CLIP's mean and standard deviation.
    """
    prepared: Tensor = _transform(resolution)(read_image(source))
    return prepared


@cache
def _transform(resolution: int) -> Callable[[Image.Image], Any]:
    from open_clip.transform import image_transform  # noqa: PLC0415 - takes seconds

    transform: Callable[[Image.Image], Any] = image_transform(resolution, is_train=False)
    return transform
