"""Recursive listing of files, following links; their names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

# Control characters, half surrogate pairs (which JSON can have), line and paragraph separators. Format
# characters are allowed: Persian needs the non-joiner, emoji the joiner, Arabic and Hebrew direction marks.
_REFUSED = ("Cc", "Cs", "Zl", "Zp")


def files_below(
    root: Path,
    *,
    on_error: Callable[[str, OSError], None] | None = None,
    on_repeated: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, str]]:
    """Find all files that are not hidden, ordered by name; links are followed.

    Each folder is entered once: at its own place, or else through the link nearest to the root; among several
    such links, the first by name is used.

    Args:
        root: folder to search.
        on_error: function called with each folder that cannot be read, which is then skipped; None to raise
            the error.
        on_repeated: function called with each further path to a folder, which is skipped.

    Yields:
        The folder relative to the root, "" or ending in `/`, and the file name. Names that are not UTF-8
        contain surrogates, as returned by `os.fsdecode`.

    Raises:
        OSError: A folder cannot be read.
    """
    files, links, entered = list[tuple[str, str]](), list[str](), {_identity(root)}

    def enter(folder: str) -> bool:
        identity = _identity(root / folder)
        if identity in entered:
            if on_repeated is not None:
                on_repeated(folder)
            return False
        entered.add(identity)
        return True

    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = _entries(root / folder)
        except OSError as error:
            if on_error is None:
                raise
            on_error(folder, error)
            entries = []
        for entry in entries:
            path = f"{folder}{entry.name}/"
            if not _is_folder(entry):
                files.append((folder, entry.name))
            elif entry.is_symlink():
                links.append(path)
            elif enter(path):
                folders.append(path)
        if not folders:
            # All links before their contents, so that a class is not read as part of another class.
            links.sort(key=lambda path: (path.count("/"), path.split("/")))
            folders, links = [path for path in links if enter(path)], []
    yield from sorted(files, key=lambda file: "".join(file).split("/"))


def folders_of(folder: Path) -> list[str]:
    """List the names of a folder's subfolders, including links, in order."""
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def shown(name: str) -> str:
    """Show a name that may not be UTF-8, with foreign bytes as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_plain(text: str) -> bool:
    """Return whether text is on one line, without characters that control a terminal."""
    return text.isprintable() or all(unicodedata.category(mark) not in _REFUSED for mark in text)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is in a folder and not hidden, ordered by name; macOS adds `__MACOSX` to archives."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - for a text
    return status.st_dev, status.st_ino
