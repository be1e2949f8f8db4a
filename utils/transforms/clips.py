"""Building blocks of audio transforms: checks of arguments, operations on batches of clips `[B, C, T]`."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def checked_clips(values: Tensor) -> Tensor:
    """Return `values`; raise ValueError unless they are floating-point `[B, C, T]`."""
    if values.ndim != 3 or not values.is_floating_point():
        raise ValueError(
            f"values are {values.dtype} {list(values.shape)}; audio must be floating-point [C, T], or "
            "[B, C, T] in a batch (see ToTensor1D)."
        )
    return values


def is_number(value: object) -> bool:
    """Return whether an argument is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_probability(p: float) -> float:
    """Return `p`; raise ValueError unless it is between 0 and 1."""
    if not is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"p is {p!r}; it must be between 0 and 1.")
    return p


def checked_length(**argument: object) -> int:
    """Return a single argument; raise ValueError unless it is a positive integer."""
    [(name, value)] = argument.items()
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a positive integer, in samples.")
    return value


def check_range_db(**limits: float) -> None:
    """Raise ValueError unless two arguments, the lower limit first, are a range in decibels."""
    for name, value in limits.items():
        if not is_number(value):
            raise ValueError(f"{name} is {value!r}; it must be a finite number, in decibels.")
    (low, minimum), (high, maximum) = limits.items()
    if minimum > maximum:
        raise ValueError(f"{low} is {minimum}; it must not exceed {high}, {maximum}.")


def windows(values: Tensor, *, start: Tensor, samples: int) -> Tensor:
    """Cut a window `[B, C, samples]` that begins at `start`, int64 `[B]`, from each clip of `[B, C, T]`."""
    rows = torch.arange(len(values), device=values.device)
    return values.unfold(-1, samples, 1)[rows, :, to_device_of(values, start)]


def to_device_of(values: Tensor, numbers: Tensor) -> Tensor:
    """Copy one number per clip, `[B]`, to the device of `values` without blocking."""
    return numbers.to(values.device, non_blocking=True)


def column(numbers: Tensor, values: Tensor) -> Tensor:
    """Reshape one number per clip, `[B]`, to broadcast with `values`, `[B, C, T]`, on their device."""
    return to_device_of(values, numbers)[:, None, None]


def zero_beyond_(values: Tensor, lengths: Tensor) -> Tensor:
    """Zero each clip beyond its length, in place."""
    if int(lengths.min()) >= values.shape[-1]:  # saves a pass; the lengths are on the CPU
        return values
    position = torch.arange(values.shape[-1], device=values.device)
    return values.masked_fill_(position >= column(lengths, values), 0.0)
