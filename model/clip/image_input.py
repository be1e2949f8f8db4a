"""Converts image files, arrays and tensors to the input of an image tower."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..inputs import IMAGE_KINDS, beginning_of, describe, name_placeholder, require_file, seekable

ImageInput: TypeAlias = str | Path | BinaryIO | Image.Image | npt.NDArray[np.uint8] | Tensor
"""Path or content of a file, PIL image, array or tensor, as described in `read_image`."""

IMAGE_SUFFIXES = frozenset(
    """
    .jpg .jpeg .jpe .jfif .png .apng .gif .webp .avif .tif .tiff .bmp .dib .jp2 .j2k .ppm .pgm .pbm .pnm
    .tga
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Lower-case suffixes of image files that Pillow decodes; data sets, shards and the demo read these."""
UNDECODED_IMAGE_SUFFIXES = frozenset(
    """
    .heic .heif .jxl .svg .dng .cr2 .cr3 .nef .arw .raf .orf
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes of image files that Pillow does not decode."""
CONVERT_IMAGE = "convert it, for example with `magick x.heic x.jpg`"

_TIFF_PHOTOMETRIC = 262  # TIFF tag, 0 if the smallest value means white
_NOT_DECODABLE = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that PIL raises for files that it cannot decode; SyntaxError for PNG."""


class ImagePreprocessing(NamedTuple):
    """Preprocessing of images for an image tower; the defaults are those of OpenAI's CLIP.

    Attributes:
        size: (height, width) of the input, pixels.
        mean: means of red, green and blue to subtract, for values in 0..1.
        std: standard deviations of red, green and blue to divide by.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" resizes the shorter side and crops the centre, "longest" resizes the longer
            side and pads, "squash" resizes both sides.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


CLIP_PREPROCESSING = ImagePreprocessing()


def read_image(source: ImageInput, *, name: str | None = None) -> Image.Image:
    """Read an image as RGB.

    EXIF orientation is applied. Greyscale values of more than 8 bits are scaled to 0..255. The range of
    integers is taken to be 0..255, 0..4095 (12 bits, as from cameras and microscopes) or 0..65535, whichever
    is the smallest that contains them; the range of floating-point values is taken to be 0..1 or 0..255.

    Args:
        source: path of a file, a file's content as a binary file, PIL image, uint8 array `[H, W]` or
            `[H, W, 3]`, or tensor `[H, W]`, `[1, H, W]` or `[3, H, W]`, uint8 or floating point in 0..1.
        name: name of the image in messages; needed for content without a path.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: The path is a folder.
        OSError: The file cannot be read.
        ValueError: The file does not decode or has too many pixels (more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`), its values have an unknown range, or the source has another type.
    """
    if isinstance(source, str | Path):
        source, name = Path(source), name or str(source)
        require_file(source, name=name, kind="image", suffix=".jpg")
    name = name or "image"
    if isinstance(source, Tensor):
        source = _array_of_tensor(source, name)
    if isinstance(source, np.ndarray):
        if (
            source.dtype != np.uint8
            or source.shape[2:] not in ((), (3,))
            or source.ndim < 2
            or not source.size
        ):
            raise ValueError(
                f"{name}: the array is {source.dtype} {list(source.shape)}; expected uint8 [H, W] or "
                "[H, W, 3]. Scale other dtypes: `(array * 255).round().astype(np.uint8)` from 0..1, "
                "`(array // 257).astype(np.uint8)` from 16 bits."
            )
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _upright_rgb(source, name)
    if not isinstance(source, Path) and not hasattr(source, "read"):
        raise ValueError(f"{name} is {describe(source)}; {IMAGE_KINDS}.")
    source = source if isinstance(source, Path) else seekable(source, name)
    try:
        opened = Image.open(source)
    except _NOT_DECODABLE as error:
        raise _not_decodable(name, error, source) from None
    with opened:
        return _upright_rgb(opened, name)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except _NOT_DECODABLE as error:
        raise _not_decodable(name, error) from None
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data raises many types
        upright = image  # the image itself is intact
    if upright.mode == "F" or upright.mode.startswith("I"):
        mode, upright = upright.mode, _in_8_bits(upright, name)
        if mode == "I;16" and getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == 0:
            upright = ImageOps.invert(upright)  # as in radiographs; Pillow itself inverts 8-bit images
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")  # a palette's transparent colour may not fit RGB
    return upright.convert("RGB")


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale a greyscale image of more than 8 bits to 0..255, according to the range of its values."""
    samples = np.asarray(image)
    low, high = float(samples.min()), float(samples.max())  # NaN if any value is NaN
    ranges: tuple[int, ...]
    if image.mode == "F":
        # Resampling overshoots slightly. No real image in 0..255 stays below 16.
        ranges, known = (1, 255), (low >= -0.1 and high <= 1.1) or (low >= -25 and 16 < high <= 280)
        top = 1 if high <= 1.1 else 255
    else:
        ranges, known = (255, 4095, 65535), low >= 0 and high <= 65535
        top = next((largest for largest in ranges if high <= largest), 65535)
    if not known:
        *some, last = (f"0..{largest}" for largest in ranges)
        raise ValueError(
            f"{name}: the samples of the image (mode {image.mode}) are {low:.6g} to {high:.6g}; the known "
            f"ranges are {', '.join(some)} and {last}. Scale it to 8 bits."
        )
    scaled = (samples.clip(0, top) * (255 / top)).round()
    return Image.fromarray(scaled.astype(np.uint8))


def _array_of_tensor(tensor: Tensor, name: str) -> npt.NDArray[np.uint8]:
    """Convert a tensor `[H, W]` or `[C, H, W]` to a uint8 array `[H, W]` or `[H, W, 3]`."""
    picture = tensor.detach().cpu()
    is_picture = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[0] in (1, 3))
    if (
        not is_picture
        or not picture.numel()
        or not (picture.dtype == torch.uint8 or picture.is_floating_point())
    ):
        raise ValueError(
            f"{name}: the tensor is {tensor.dtype} {list(tensor.shape)}; expected [3, H, W], [1, H, W] or "
            "[H, W] of uint8, or of floating point in 0..1."
        )
    if picture.dtype != torch.uint8:
        picture = picture.float()
        low, high = picture.min().item(), picture.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name}: the tensor's values are {low:.6g} to {high:.6g}; expected 0..1 in floating point. "
                "Pass normalised images to encode_image."
            )
        picture = (picture * 255).round().to(torch.uint8)
    if picture.ndim == 3:
        picture = picture[0] if picture.shape[0] == 1 else picture.permute(1, 2, 0)
    array: npt.NDArray[np.uint8] = picture.contiguous().numpy()
    return array


def _not_decodable(name: str, error: Exception, source: Path | BinaryIO | None = None) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:  # the system's, such as too many open files
        return OSError(error.errno, error.strerror, error.filename or name)
    known = None if source is None else name_placeholder(beginning_of(source))
    if known is not None:
        return ValueError(f"{name}: is {known}")
    advice = f"; {CONVERT_IMAGE}" if Path(name).suffix.lower() in UNDECODED_IMAGE_SUFFIXES else ""
    return ValueError(f"{name}: not decodable as an image ({error}){advice}.")


def read_pixels(source: ImageInput, *, name: str | None = None) -> Tensor:
    """Read an image as uint8 `[3, H, W]`; arguments and exceptions are those of `read_image`."""
    pixels = np.asarray(read_image(source, name=name))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def preprocess_image(
    source: ImageInput,
    *,
    preprocessing: ImagePreprocessing = CLIP_PREPROCESSING,
    name: str | None = None,
) -> Tensor:
    """Preprocess an image for `AudioCLIP.encode_image`.

    Args:
        source: image, see `read_image`.
        preprocessing: the model's `AudioCLIP.image_preprocessing`.
        name: name of the image in messages; needed for content without a path.

    Returns:
        float32 `[3, height, width]`, normalised.
    """
    prepared: Tensor = _transform(preprocessing)(read_image(source, name=name))
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
