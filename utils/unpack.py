"""Unpack an archive from elsewhere: plain files into one folder and nowhere else, or nothing."""

from __future__ import annotations

import errno
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ignite_trainer.progress import Progress
from model.fetch import FetchError, check_room

MOST_FILES = 100_000
"""In one archive; UrbanSound8K has 8,745."""

# What the readers of the standard library raise; ValueError and IndexError where a header makes no sense.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RuntimeError, ValueError, IndexError),
)
# Of OSErrors those that are no fault of the disk: bz2's, which have no number, of seeking, of long names.
_DAMAGED_NUMBERS = (None, errno.EINVAL, errno.ENAMETOOLONG)


class ArchiveError(ValueError):
    """An archive that is damaged, of another kind, or holds what a data set has no need of."""


class _Member(NamedTuple):
    name: str
    size_bytes: int
    content: IO[bytes]


def unpack(archive: Path, folder: Path, *, top: str, most_bytes: int, progress: bool = True) -> None:
    """Write the files of a zip or tar archive into a folder, without the archive's own top folder.

    Every name is checked before anything of it is written: relative, without `..`; and every member is a
    plain file or a folder, no link and no device. Files get the rights of new files, not the archive's. (The
    filters of `tarfile` allow links within the folder, and not every Python 3.10 has them.)

        ESC-50-master/meta/esc50.csv  ->  <folder>/meta/esc50.csv

    Args:
        archive: the file.
        folder: an existing one; if unpacking fails, it holds a part and is to be thrown away.
        top: the archive's top folder; what is not in it is left out.
        most_bytes: that the files may have together, so that a small archive cannot fill the disk. Counted is
            what comes out, whatever the archive says of it.
        progress: show a bar, or lines where there is no terminal.

    Raises:
        ArchiveError: it is damaged or unsafe, has no such top folder, or holds more than it may.
        FetchError: the disk has too little room.
        OSError: the folder cannot be written.
    """
    found, left = False, most_bytes
    with (
        _open(archive) as (members, total),
        Progress(desc=f"Unpacking {archive.name}", total=total, unit="B", shown=progress) as bar,
    ):
        if (total or 0) > most_bytes:
            raise _too_much(archive, most_bytes)
        check_room(folder, archive.stat().st_size if total is None else total)
        for count, member in enumerate(members):
            parts = _checked(member.name, archive).parts
            if count >= MOST_FILES or member.size_bytes > left:
                raise _too_much(archive, most_bytes)
            left -= member.size_bytes
            if parts[:1] == (top,) and len(parts) > 1:
                found = True
                _write(member, folder.joinpath(*parts[1:]), archive)
            bar.update(member.size_bytes)
    if not found:
        raise ArchiveError(f"{archive}: has no folder {top}; it is another archive.")


def _write(member: _Member, path: Path, archive: Path) -> None:
    """Write one file, and not a byte more than the archive says it has."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        out = path.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{archive}: unsafe; {member.name} is there twice, or is a file and a folder."
        ) from error
    with out:
        left = member.size_bytes
        while left and (block := member.content.read(min(left, 1 << 20))):
            out.write(block)
            left -= len(block)
        if left or member.content.read(1):
            raise ArchiveError(f"{archive}: damaged; {member.name} has not the size that is said of it.")


def _too_much(archive: Path, most_bytes: int) -> ArchiveError:
    return ArchiveError(
        f"{archive}: unsafe; it holds more than {MOST_FILES:,} files or {most_bytes:,} bytes, which is more "
        "than its data set has."
    )


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
    except (ArchiveError, FetchError):
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGED_NUMBERS:
            raise
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
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive}: unsafe; {name} would be written outside of the data set's folder.")
    return path
