"""Checks the arguments of commands before anything is computed."""

# ruff: noqa: PTH112, PTH113 (methods of Path raise an OSError for a long text)

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

EMBEDDING_SUFFIXES = (".parquet", ".safetensors")
SCORES_SUFFIXES = (".csv",)
EXPORT_SUFFIXES = (".onnx", ".pt2")

SCORES_COLUMNS = ("path", "kind")
"""Columns of `classify --out` before those of the labels."""


class UsageError(ValueError):
    """Invalid command-line arguments."""


def check_output(file: Path, suffixes: tuple[str, ...]) -> None:
    """Check that a file has one of the suffixes and can be written.

    Raises:
        UsageError: The suffix is not allowed.
        OSError: The folder does not exist or cannot be written, or `file` is a folder.
    """
    if file.suffix not in suffixes:
        raise UsageError(f"{file} must end in {' or '.join(suffixes)}.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file.")
    folder = file.resolve().parent  # of the target, if the file is a link
    if not folder.is_dir():
        raise NotADirectoryError(f"{file}: the folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{file}: the folder {folder} cannot be written.")


def check_labels(labels: Sequence[str], *, option: str) -> None:
    """Check for likely mistakes in the labels of an option.

    Raises:
        UsageError: There is a single label; or a label is not UTF-8, or is the name of a sound or an image,
            of any existing file with a suffix, or of a folder given by its path (a bare name may be a label).
    """
    from ..zero_shot import SUFFIXES  # noqa: PLC0415 - imports torch

    if len(labels) < 2:
        raise UsageError(f"{option} has only {labels[0]!r}; give two or more, separated by spaces.")
    for label in labels:
        path = Path(label)
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            raise UsageError(f"{option} has {label!r}, which is not UTF-8.")
        is_file = path.suffix.lower() in SUFFIXES or (path.suffix and os.path.isfile(label))
        if is_file or (path.name != label and os.path.isdir(label)):
            raise UsageError(
                f"{option} has {label!r}, the name of a {'file' if is_file else 'folder'}; name files and "
                f"folders before {option}."
            )
