"""The files of a folder and of all in it, linked folders included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def files_below(
    root: Path, *, on_error: Callable[[str, OSError], None] | None = None
) -> Iterator[tuple[str, str]]:
    """Find all files that are not hidden, in the order of their names; links are followed.

    A folder that is in itself, by way of links, is entered once.

    Args:
        root: the folder.
        on_error: called with a folder that cannot be read, which is passed over then; None: that is raised.

    Yields:
        Folder relative to the root, "" or with `/` at its end, and name. Names that are not UTF-8 have
        surrogates, as `os.fsdecode` makes them.

    Raises:
        OSError: a folder cannot be read.
    """

    def look(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
        try:
            with os.scandir(root / folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if on_error is None:
                raise
            on_error(folder, error)
            return
        for entry in ordered:
            if _is_hidden(entry.name):
                continue
            if not _is_folder(entry):
                yield folder, entry.name
                continue
            there = _identity(entry.path)
            if there not in above:
                yield from look(f"{folder}{entry.name}/", above | {there})

    yield from look("", frozenset({_identity(root)}))


def folders_of(folder: Path) -> list[str]:
    """List the names of the folders in a folder, links included, in their order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry) and not _is_hidden(entry.name))


def shown(name: str) -> str:
    """Show a name that may not be UTF-8: bytes that are no letters as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what archives of that system have besides


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - for a text
    return status.st_dev, status.st_ino
