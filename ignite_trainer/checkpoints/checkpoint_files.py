"""Checkpoint files: written atomically, verified when read, removed with the files that belong to them."""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_trainer.support.files import is_intact, remove, write_durably

BUILT_FROM = "built_from"
"""Key under which files of weights, and states, hold the protocol's section `Model`."""

_STATE = re.compile(r"last_epoch-(\d+)(?:_step-(\d+))?\.pt")


class DamagedError(Exception):
    """A file is missing, or its content has changed since it was written.

    The message is its path, and what lies there instead, where that is plain.

    Attributes:
        name: the same with its name in place of the path.
    """

    def __init__(self, file: Path) -> None:
        instead = _name_replacement(file)
        super().__init__(f"{file}{instead}")
        self.name = f"{file.name}{instead}"


def states_of(folder: Path) -> list[Path]:
    """The states in a folder, the newest first, whether they are intact or not."""
    found = [(match, path) for path in folder.glob("last_*.pt") if (match := _STATE.fullmatch(path.name))]
    # A state without a step is that of a complete epoch.
    found.sort(key=lambda one: (int(one[0][1]), float(one[0][2] or math.inf)), reverse=True)
    return [path for _, path in found]


def read_intact(path: Path, sha256: str | None = None) -> Any:
    """Read what `save_durably` wrote, tensors onto the CPU.

    Raises:
        DamagedError: the file has another sha256 than this or, without this, than the checksum beside it.
    """
    if not is_intact(path, sha256):
        raise DamagedError(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DamagedError(path) from error


def save_durably(path: Path, content: Mapping[str, Any]) -> str:
    """Write a file that `torch.load` reads; return its sha256.

    Raises:
        RunFailed: it cannot be written; what was at `path` stays.
    """
    return write_durably(path, lambda file: torch.save(content, file))


def save_weights(path: Path, weights: Mapping[str, Any], *, built_from: Mapping[str, Any]) -> None:
    """Write weights as a state dict, which says in its attribute `built_from` how the model is built.

    Args:
        path: where the weights will be.
        weights: contiguous tensors on the CPU that share no memory, by name; or else what a model saves.
        built_from: class and arguments of the model, JSON types.

    Raises:
        RunFailed: they cannot be written.
    """
    described = OrderedDict(weights)
    vars(described)[BUILT_FROM] = dict(built_from)
    save_durably(path, described)


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """View a contiguous tensor on the CPU as the bytes it has in memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def remove_weights(path: Path) -> None:
    """Remove weights, or a state, and what earlier versions wrote beside them."""
    remove(path)
    remove(path.with_suffix(".safetensors"))


def _name_replacement(path: Path) -> str:
    """Name what commonly lies in place of a file, in parentheses; "" for anything else."""
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
