"""Safe unpacking of downloaded archives: only plain files, inside one folder, up to a size limit."""

from __future__ import annotations

import errno
import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ignite_trainer.support.progress import Progress
from model.weights.fetch import FetchError, check_room

MOST_FILES = 100_000
"""Maximum number of files in an archive; UrbanSound8K has 8,745."""

# Exceptions of the standard library's readers; nonsensical headers cause ValueError and IndexError.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RuntimeError, ValueError, IndexError),
)
# OSErrors caused by the archive: from bz2 (no number), from seeking, and from overlong names.
_DAMAGED_NUMBERS = (None, errno.EINVAL, errno.ENAMETOOLONG)


class ArchiveError(ValueError):
    """An archive is damaged, unsafe, or not the expected archive."""


class _File(NamedTuple):
    path: PurePosixPath
    size_bytes: int
    content: IO[bytes]


def unpack(archive: Path, folder: Path, *, top: str, most_bytes: int, progress: bool = True) -> None:
    """Extract a zip or tar archive into a folder, without the archive's top folder.

        ESC-50-master/meta/esc50.csv  ->  <folder>/meta/esc50.csv

    Members must be plain files or folders with relative names that do not contain `..`. (`tarfile`'s filters
    would allow links, and `zipfile` has no filters.)

    Args:
        archive: archive file.
        folder: existing folder to unpack into; delete it if unpacking fails, as it is then incomplete.
        top: top folder in the archive; files outside it are skipped.
        most_bytes: limit for the unpacked size, so that a small archive cannot fill the disk.
        progress: whether to show a progress bar, or lines without a terminal.

    Raises:
        ArchiveError: The archive is damaged or unsafe, has no such top folder, or exceeds a limit.
        FetchError: The disk does not have enough free space.
        OSError: The folder cannot be written.
    """
    found, left = False, most_bytes
    with (
        _open(archive) as (files, total),
        Progress(desc=f"Unpacking {archive.name}", total=total, unit="B", shown=progress) as bar,
    ):
        if (total or 0) > most_bytes:
            raise _too_much(archive, most_bytes)
        check_room(folder, archive.stat().st_size if total is None else total)
        for count, file in enumerate(files):
            left -= file.size_bytes
            if count >= MOST_FILES or left < 0:
                raise _too_much(archive, most_bytes)
            if file.path.parts[:1] == (top,) and len(file.path.parts) > 1:
                found = True
                _write(file, folder.joinpath(*file.path.parts[1:]), archive)
            bar.update(file.size_bytes)
    if not found:
        raise ArchiveError(f"{archive}: has no folder {top}, so it is not the expected archive.")


def _too_much(archive: Path, most_bytes: int) -> ArchiveError:
    return ArchiveError(
        f"{archive}: unsafe; it contains more than {MOST_FILES:,} files or {most_bytes:,} bytes, which is "
        "more than the data set has."
    )


def _write(file: _File, path: Path, archive: Path) -> None:
    """Write one file; the readers return no more bytes than the archive states."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        out = path.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{archive}: unsafe; {file.path} occurs twice, or is both a file and a folder."
        ) from error
    with out:
        shutil.copyfileobj(file.content, out, 1 << 20)
        if out.tell() != file.size_bytes:
            raise ArchiveError(f"{archive}: damaged; {file.path} does not have the stated size.")


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Iterator[_File], int | None]]:
    """Open an archive; yield its files and, for a zip archive, their total size in bytes."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened, closing(_zip_files(opened, archive)) as files:
                yield files, sum(entry.file_size for entry in opened.infolist())
        else:
            with tarfile.open(archive) as opened_tar, closing(_tar_files(opened_tar, archive)) as files:
                yield files, None
    except (ArchiveError, FetchError):
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGED_NUMBERS:
            raise
        raise ArchiveError(f"{archive}: damaged, or not an archive ({error}).") from error


def _zip_files(opened: zipfile.ZipFile, archive: Path) -> Generator[_File]:
    for entry in opened.infolist():
        kind = entry.external_attr >> 16 & 0o170000  # as in Unix; 0 in archives from other systems
        path = _checked(entry.filename, archive, plain=kind in (0, 0o100000, 0o040000))
        if not entry.is_dir():
            with opened.open(entry) as content:
                yield _File(path, entry.file_size, content)


def _tar_files(opened: tarfile.TarFile, archive: Path) -> Generator[_File]:
    for entry in opened:
        path = _checked(entry.name, archive, plain=entry.isfile() or entry.isdir())
        if content := opened.extractfile(entry):  # None for a folder
            with content:
                yield _File(path, entry.size, content)
    rest: Any = opened.fileobj  # read to the end, which holds the checksum of the compressed data
    while rest.read(1 << 20):
        pass


def _checked(name: str, archive: Path, *, plain: bool) -> PurePosixPath:
    if not plain:
        raise ArchiveError(f"{archive}: unsafe; {name} is a link or a device.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive}: unsafe; {name} would be written outside the data set's folder.")
    return path
