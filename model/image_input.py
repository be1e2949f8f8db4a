"""Pictures to the input of an image tower: decoding, resizing, cropping and normalising, nothing learned."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageInput: TypeAlias = str | Path | BinaryIO | Image.Image | npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset(
    """
    .jpg .jpeg .jpe .jfif .png .apng .gif .webp .avif .tif .tiff .bmp .dib .jp2 .j2k .ppm .pgm .pbm .pnm
    .tga
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes, in lower case, of pictures that Pillow decodes: data sets, shards and the demo read these."""
UNDECODED_IMAGE_SUFFIXES = frozenset(
    """
    .heic .heif .jxl .svg .dng .cr2 .cr3 .nef .arw .raf .orf
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes of pictures that it does not decode."""
CONVERT_IMAGE = "convert it, as by `magick x.heic x.jpg`"

_NOT_DECODABLE = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)
"""What PIL raises for the content of a file; SyntaxError for that of a PNG."""


class ImagePreprocessing(NamedTuple):
    """How an image tower was trained to see pictures; by default OpenAI's CLIP.

    Attributes:
        size: (height, width) of the input, pixels.
        mean: of red, green and blue in 0..1, which is taken off.
        std: by which they are divided then.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest": the shorter side gets the size, the middle of the longer one is kept;
            "longest": the longer side does, and the rest is filled; "squash": both do.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


CLIP_PREPROCESSING = ImagePreprocessing()


def read_image(source: ImageInput, *, name: str | None = None) -> Image.Image:
    """Take a path, the content of a file, a PIL image or an array, and return an RGB image.

    A file's image is turned upright, as its EXIF data say.

    Args:
        source: content is a binary file; arrays are uint8, `[H, W]` or `[H, W, 3]`.
        name: of the file in messages, where it has no path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not decode, has too many pixels (twice `PIL.Image.MAX_IMAGE_PIXELS`), or the
            array is of another kind.
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
            upright = ImageOps.exif_transpose(image)
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")  # what a palette says of it may be none of RGB
            return upright.convert("RGB")
    except _NOT_DECODABLE as error:
        advice = f"; {CONVERT_IMAGE}" if Path(name or "").suffix.lower() in UNDECODED_IMAGE_SUFFIXES else ""
        raise ValueError(f"{name or 'image'}: not decodable as an image ({error}){advice}.") from error


def read_pixels(source: ImageInput, *, name: str | None = None) -> Tensor:
    """Decode a picture as samples have it: uint8 `[3, H, W]`; takes and raises what `read_image` does."""
    pixels = np.asarray(read_image(source, name=name))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def preprocess_image(source: ImageInput, *, preprocessing: ImagePreprocessing = CLIP_PREPROCESSING) -> Tensor:
    """Prepare a picture for `AudioCLIP.encode_image` as its image tower was trained.

    Args:
        source: see `read_image`.
        preprocessing: that of the tower.

    Returns:
        float32 `[3, height, width]`, normalised.
    """
    prepared: Tensor = _transform(preprocessing)(read_image(source))
    return prepared


@cache
def _transform(preprocessing: ImagePreprocessing) -> Callable[[Image.Image], Any]:
    from open_clip.transform import image_transform  # noqa: PLC0415 - takes seconds

    transform: Callable[[Image.Image], Any] = image_transform(
        preprocessing.size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
        resize_mode=preprocessing.resize_mode,
    )
    return transform
