"""Inputs of the embedding functions: one or several, files, numbers; and how messages name them."""

import io
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import PIL.Image
from torch import Tensor

AUDIO_KINDS = "expected a path, a binary file, an array or a tensor"
IMAGE_KINDS = "expected a path, a binary file, a PIL image, an array or a tensor"

MOST_CHANNELS = 8
"""Of a sound in an array: 7.1 is the largest usual layout, more rows are clips, samples or a picture."""

_SINGLE = (str, Path, np.ndarray, Tensor, PIL.Image.Image)


def several(inputs: Any, kinds: str) -> Iterable[Any]:
    """Return inputs as several, also where there is one; an array of four dimensions is several pictures.

    Raises:
        ValueError: there is neither; the message says which `kinds` there are.
    """
    if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4:
        return list(inputs)
    if isinstance(inputs, _SINGLE) or hasattr(inputs, "read"):
        return [inputs]
    if isinstance(inputs, bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise ValueError(f"inputs is {describe(inputs)}; {kinds}, or several of these.")
    return inputs


def describe(value: object) -> str:
    """Name a value by its type, for messages: "None", "a float", "an int"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def searchable(file: Any, name: str) -> BinaryIO:
    """Return a binary file in which one can go back: this one, or its content.

    Raises:
        ValueError: it was opened as text, or is closed.
    """
    if isinstance(file, io.TextIOBase):
        raise ValueError(f'{name} is a file that was opened as text; open it with "rb".')
    if getattr(file, "closed", False):
        raise ValueError(f"{name} is a file that is closed already.")
    is_searchable = not hasattr(file, "seekable") or file.seekable()
    return cast(BinaryIO, file if is_searchable else io.BytesIO(file.read()))


def is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above 0."""
    return not isinstance(value, bool) and isinstance(value, Real) and 0 < float(value) < math.inf


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 1."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1
