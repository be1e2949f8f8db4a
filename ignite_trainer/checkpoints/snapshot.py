"""Copies of a state on the CPU, which training does not change."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def snapshot(state: Any) -> Any:
    """Copy a state, and the tensors nested in its dicts, lists and tuples to the CPU.

    Returns:
        The same structure. Its tensors are contiguous, and share no memory with the state or each other.
    """
    copied = _copy(state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # once for all copies, which are asynchronous
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(
            "cpu", copy=True, non_blocking=value.is_cuda, memory_format=torch.contiguous_format
        )
    if isinstance(value, dict):
        copied = copy.copy(value)  # a Counter stays one
        for key, item in value.items():
            copied[key] = _copy(item)
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    return copy.deepcopy(value)
