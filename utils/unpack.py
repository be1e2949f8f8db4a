"""Unpack an archive from elsewhere: plain files into one folder and nowhere else, or nothing."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from model.fetch import check_room

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


class ArchiveError(ValueError):
    """An archive that is damaged, of another kind, or holds what a data set has no need of."""


class _Member(NamedTuple):
    name: str
    size_bytes: int
    content: IO[bytes]


def unpack(archive: Path, folder: Path, *, top: str, progress: bool = True) -> None:
    """Write the files of a zip or tar archive into a folder, without the archive's own top folder.

    Every name is checked before anything of it is written: relative, without `..`; and every member is a
    plain file or a folder, no link and no device. Files get the rights of new files, not the archive's. (The
    filters of `tarfile` allow links within the folder, and not every Python 3.10 has them.)

        ESC-50-master/meta/esc50.csv  ->  <folder>/meta/esc50.csv

    Args:
        archive: the file.
        folder: an existing one; if unpacking fails, it holds a part and is to be thrown away.
        top: the archive's top folder; what is not in it is left out.
        progress: show a bar where there is a terminal.

    Raises:
        ArchiveError: it is damaged or unsafe, or has no such top folder.
        FetchError: the disk has too little room.
        OSError: the folder cannot be written.
    """
    found = False
    with _open(archive) as (members, total), _bar(archive.name, total, progress) as bar:
        check_room(folder, archive.stat().st_size if total is None else total)
        for member in members:
            parts = _checked(member.name, archive).parts
            if parts[:1] == (top,) and len(parts) > 1:
                found = True
                path = folder.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as out:
                    shutil.copyfileobj(member.content, out, 1 << 20)
            bar.update(member.size_bytes)
    if not found:
        raise ArchiveError(f"{archive}: has no folder {top}; it is another archive.")


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Iterator[_Member], int | None]]:
    """The plain files of an archive, and how many bytes they are, where it has a list."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                yield _zip_members(opened, archive), sum(entry.file_size for entry in opened.infolist())
        else:
            with tarfile.open(archive) as opened_tar:
                yield _tar_members(opened_tar, archive), None
    except _DAMAGED as error:
        raise ArchiveError(f"{archive}: damaged, or no archive ({error}).") from error


def _zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    for entry in opened.infolist():
        kind = entry.external_attr >> 16 & 0o170000  # as in Unix; 0 where the archive is from elsewhere
        if kind not in (0, 0o100000, 0o040000):
            raise ArchiveError(f"{archive}: unsafe; {entry.filename} is a link or a device.")
        _checked(entry.filename, archive)
        if not entry.is_dir():
            with opened.open(entry) as content:
                yield _Member(entry.filename, entry.file_size, content)


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    for entry in opened:
        if not (entry.isfile() or entry.isdir()):
            raise ArchiveError(f"{archive}: unsafe; {entry.name} is a link or a device.")
        _checked(entry.name, archive)
        content = opened.extractfile(entry)
        if content is not None:  # a folder has none
            with content:
                yield _Member(entry.name, entry.size, content)
    rest: Any = opened.fileobj  # to the very end, where the checksum of what was compressed is
    while rest.read(1 << 20):
        pass


def _checked(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ArchiveError(f"{archive}: unsafe; {name} would be written outside of the data set's folder.")
    return path


def _bar(name: str, total: int | None, progress: bool) -> tqdm[object]:
    return tqdm(
        desc=f"Unpacking {name}", total=total, unit="B", unit_scale=True, disable=None if progress else True
    )
