"""Published data sets: the addresses and sizes of their archives, and how to download and unpack them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from types import MappingProxyType

from model.storage.atomic import make_once
from model.weights.fetch import FetchError, RemoteFile, check_room, fetch
from utils.fetching.unpack import ArchiveError, unpack

_ROOM = 4  # limit of the unpacked size, as a multiple of the clips' size; leaves room for other files


@dataclass(frozen=True)
class Published:
    """A data set that is published as a single archive."""

    name: str
    archive: RemoteFile
    top: str
    """Top folder in the archive."""
    table: str
    """Path of the table of clips below the top folder."""
    clip: str
    """Path of a clip below the top folder, as a format string with the table's columns."""
    clips: int
    """Number of clips in the table."""
    archive_bytes: int
    """Size of the archive; approximate if the archive is packed on demand."""
    unpacked_bytes: int
    """Lower bound of the unpacked size."""


ESC_50 = Published(
    name="ESC-50",
    # GitHub packs this archive on demand, so neither its size nor its hash is stable.
    archive=RemoteFile("ESC-50-master.zip", "https://github.com/karolpiczak/ESC-50/archive/master.zip"),
    top="ESC-50-master",
    table="meta/esc50.csv",
    clip="audio/{filename}",
    clips=2000,
    archive_bytes=650_000_000,
    unpacked_bytes=2000 * 5 * 44100 * 2,
)

URBAN_SOUND_8K = Published(
    name="UrbanSound8K",
    archive=RemoteFile(
        "UrbanSound8K.tar.gz",
        "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
        6023741708,
        "md5:9aa69802bbf37fb986f71ec1483a196e",
    ),
    top="UrbanSound8K",
    table="metadata/UrbanSound8K.csv",
    clip="audio/fold{fold}/{slice_file_name}",
    clips=8732,
    archive_bytes=6023741708,
    unpacked_bytes=6023741708,
)

DATA_SETS: Mapping[str, Published] = MappingProxyType(
    {data_set.name: data_set for data_set in (ESC_50, URBAN_SOUND_8K)}
)


def fetch_data_set(
    data_set: Published, root: str | Path, *, mirror: str | None = None, progress: bool = True
) -> Path:
    """Download and unpack a data set, unless it is already in place.

    The data set is unpacked into a folder next to the root, checked, and renamed, so it is never incomplete.
    If several processes need it, one does this while the others wait. The archive is downloaded to the folder
    that contains the root and deleted afterwards. An archive that you put there yourself is used and kept.

    Args:
        data_set: data set to fetch.
        root: folder of the data set; it may be missing or empty, or already contain the data set.
        mirror: address of a folder that contains the archive; None for `$AUDIOCLIP_MIRROR` if set, and
            otherwise the published address.
        progress: whether to print the address and show progress bars, or lines without a terminal.

    Returns:
        The root.

    Raises:
        FetchError: The archive cannot be downloaded, the disk is full, or the root contains other files.
        ArchiveError: The archive is damaged or unsafe, or lacks clips.
    """
    root = Path(root).expanduser().resolve()
    archive = root.parent / data_set.archive.name

    def is_complete(folder: Path) -> bool:
        if (folder / data_set.table).is_file():
            return True
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FetchError(
                f"{folder}: contains something other than {data_set.name}. Name a folder that is empty or "
                "does not exist."
            )
        return False

    def fill(folder: Path) -> None:
        brought = archive.exists()
        if not brought:
            check_room(folder, data_set.archive_bytes + data_set.unpacked_bytes)
        fetch(data_set.archive, archive, mirror=mirror, progress=progress)
        try:
            unpack(
                archive,
                folder,
                top=data_set.top,
                most_bytes=_ROOM * data_set.unpacked_bytes,
                progress=progress,
            )
            _check_clips(data_set, folder, archive)
        except ArchiveError as error:
            if brought:
                raise ArchiveError(f"{error} Remove it to download it again.") from None
            archive.unlink()
            raise ArchiveError(f"{error} It was deleted.") from None
        os.sync()  # before the folder gets its final name
        if not brought:
            archive.unlink()

    try:
        make_once(root, is_complete=is_complete, fill=fill)
    except FetchError:
        raise
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        raise FetchError(
            f"{root}: {data_set.name} cannot be written there ({error}). Free some space, or name another "
            "folder."
        ) from None
    return root


def _check_clips(data_set: Published, folder: Path, archive: Path) -> None:
    """Raise ArchiveError unless the table has the published number of clips and all files exist."""
    # Imports torch, which `python -m utils.fetch --help` does not need.
    from utils.datasets.sources.tables import read_table  # noqa: PLC0415

    columns = [column for _, column, _, _ in Formatter().parse(data_set.clip) if column]
    try:
        rows = read_table(folder / data_set.table, columns)
        clips = {data_set.clip.format_map({name: row.file_name(name) for name in columns}) for row in rows}
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{archive}: its {data_set.table} cannot be read ({error}).") from None
    there = sum((folder / clip).is_file() for clip in clips)
    if not there == len(clips) == data_set.clips:
        raise ArchiveError(
            f"{archive}: contains {there} of the {len(clips)} clips in its table; "
            f"{data_set.name} has {data_set.clips}."
        )
