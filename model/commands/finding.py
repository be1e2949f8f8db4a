"""Finds the sounds and images that a command should use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from ..clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES
from ..storage.walking import files_below, is_plain
from ..zero_shot import SUFFIXES

_UNDECODED = {
    **dict.fromkeys(sorted(UNDECODED_AUDIO_SUFFIXES), CONVERT_AUDIO),
    **dict.fromkeys(sorted(UNDECODED_IMAGE_SUFFIXES), CONVERT_IMAGE),
}


class FoundFiles:
    """The sounds and images among files and in folders with their subfolders, by suffix.

    Symbolic links are followed, and hidden files in folders skipped. The order is that of `paths`, and by
    name in a folder. A file is listed once, under its first name: its path as given, or the given folder's
    path joined with the path below it, with forward slashes.

    Args:
        paths: files and folders.
        relative_to: folder to which the names are relative; None for names that start as `paths` do.

    Attributes:
        files: absolute path of each file, by name.
        wrong: reason why a file or folder is unusable, by name.
    """

    def __init__(self, paths: Sequence[Path], *, relative_to: Path | None = None) -> None:
        self.files: dict[str, Path] = {}
        self.wrong: dict[str, str] = {}
        self._relative_to = relative_to
        self._seen: set[Path] = set()
        for path in paths:
            if path.is_dir():
                self._add_folder(path)
            elif path.suffix.lower() in SUFFIXES:
                self._add(path, path.parent.resolve() / path.name)
            else:
                self.wrong[self._name(path)] = "neither a sound nor an image by its suffix"

    def _add_folder(self, folder: Path) -> None:
        def unreadable(relative: str, error: OSError) -> None:
            self.wrong[self._name(folder / relative)] = f"cannot be read ({error.strerror})"

        root = folder.resolve()
        for parent, name in files_below(root, on_error=unreadable):
            if Path(name).suffix.lower() in SUFFIXES:
                self._add(folder / parent / name, root / parent / name)

    def _add(self, named: Path, path: Path) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        name, suffix = self._name(named), path.suffix.lower()
        if suffix in _UNDECODED:  # videos can be large: do not hash them
            self.wrong[name] = f"{suffix[1:]} is not decoded: {_UNDECODED[suffix]}"
        elif not is_plain(name):
            self.wrong[name] = "its name cannot be printed"
        else:
            self.files[name] = path

    def _name(self, path: Path) -> str:
        return (path.relative_to(self._relative_to) if self._relative_to else path).as_posix()
