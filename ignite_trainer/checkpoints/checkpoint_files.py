"""Checkpoint files: content copied to the CPU, atomic writing, verified reading."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ignite_trainer.support.files import is_intact, write_durably

BUILT_FROM = "built_from"
"""Name of the protocol's `Model` section: a key in states, and an attribute of saved weights."""

_STATE = re.compile(r"last_epoch-(\d+)(?:_step-(\d+))?\.pt")


class DamagedError(Exception):
    """A file is missing, or its content has changed since it was written.

    The message is the file's path, with a description of the content found instead if it is recognised.

    Attributes:
        name: the same message with the file's name instead of its path.
    """

    def __init__(self, file: Path) -> None:
        instead = _content_instead(file)
        super().__init__(f"{file}{instead}")
        self.name = f"{file.name}{instead}"


def states_of(folder: Path) -> list[Path]:
    """List the states in a folder, newest first, whether or not they are intact."""
    found = [(match, path) for path in folder.glob("last_*.pt") if (match := _STATE.fullmatch(path.name))]
    # A state without a step number was saved after the complete epoch, so it is the epoch's newest.
    found.sort(key=lambda pair: (int(pair[0][1]), float(pair[0][2] or math.inf)), reverse=True)
    return [path for _, path in found]


def read_intact(path: Path, sha256: str | None = None) -> Any:
    """Read a file written by `save_durably`, with its tensors on the CPU.

    The expected hash is by default the one in the checksum file alongside `path`.

    Raises:
        DamagedError: The file is missing, has another hash, or cannot be loaded.
    """
    if not is_intact(path, sha256):
        raise DamagedError(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DamagedError(path) from error


def save_durably(path: Path, content: Mapping[str, Any]) -> str:
    """Write a file for `torch.load`, and return its sha256.

    Raises:
        RunFailed: The file could not be written; an existing file at `path` stays as it was.
    """
    return write_durably(path, lambda file: torch.save(content, file))


def save_weights(path: Path, weights: Mapping[str, Any], *, built_from: Mapping[str, Any]) -> None:
    """Write a state dict whose attribute `built_from` holds the class and arguments of its model."""
    described = OrderedDict(weights)
    vars(described)[BUILT_FROM] = dict(built_from)
    save_durably(path, described)


def snapshot(state: Any) -> Any:
    """Copy a state to the CPU, with the tensors nested in its dicts, lists and tuples.

    Returns:
        The same structure. Its tensors are contiguous and share no memory with the state or with each other.
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
        copied = copy.copy(value)  # keeps the dict's class, such as Counter
        for key, item in value.items():
            copied[key] = _copy(item)
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    return copy.deepcopy(value)


def _content_instead(path: Path) -> str:
    """Describe, in parentheses, common content in place of a checkpoint; return "" for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(256).lstrip().lower()
    except OSError:
        return ""
    if not head:
        return " (an empty file)"
    if head.startswith(b"version https://") and b"/spec/" in head:
        return " (a Git LFS pointer; run `git lfs pull` in its repository)"
    return " (an HTML page)" if head.startswith((b"<!doctype html", b"<html")) else ""
