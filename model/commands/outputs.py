"""Checks files that a command should write, before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDING_SUFFIXES = (".parquet", ".safetensors")
SCORES_SUFFIXES = (".csv",)
EXPORT_SUFFIXES = (".onnx", ".pt2")


class UsageError(ValueError):
    """The words of a command cannot be right."""


def check_output(file: Path, suffixes: tuple[str, ...]) -> None:
    """Check that a file has one of the suffixes and can be written.

    Raises:
        UsageError: The suffix is another one.
        OSError: The folder does not exist or cannot be written, or `file` is a folder.
    """
    if file.suffix not in suffixes:
        raise UsageError(f"{file} must end in {' or '.join(suffixes)}.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file.")
    if not file.parent.is_dir():
        raise NotADirectoryError(f"{file}: the folder {file.parent} does not exist.")
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{file}: the folder {file.parent} cannot be written.")
