"""Pictures to CLIP's input: decoding, resizing, cropping and normalising, nothing learned."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from torch import Tensor

ImageInput: TypeAlias = str | Path | BinaryIO | Image.Image | npt.NDArray[np.uint8]


def read_image(source: ImageInput, *, name: str | None = None) -> Image.Image:
    """Take a path, the content of a file, a PIL image or an array, and return an RGB image.

    Args:
        source: content is a binary file; arrays are uint8, `[H, W]` or `[H, W, 3]`.
        name: of the file in messages, where it has no path.

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
    if isinstance(source, str | Path):
        source, name = Path(source), name or str(source)
        if not source.is_file():
            raise FileNotFoundError(f"{name}: no such image file.")
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name or 'image'}: not decodable as an image ({error}).") from error


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
