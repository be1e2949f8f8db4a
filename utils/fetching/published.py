"""Downloads published data sets: addresses and sizes of their archives, and how one becomes a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from types import MappingProxyType

from model.weights.fetch import FetchError, RemoteFile, check_room, fetch
from utils.fetching.unpack import ArchiveError, unpack

_ROOM = 4  # times the size of the clips, for other files of the archive


@dataclass(frozen=True)
class Published:
    """One data set, published as one archive."""

    name: str
    archive: RemoteFile
    top: str
    """The archive's top folder."""
    table: str
    """The table of the clips, below the top folder."""
    clip: str
    """Path of a clip below the top folder, as a format of the table's columns."""
    clips: int
    """Lines of the table."""
    archive_bytes: int
    """Approximate if it is not stable."""
    unpacked_bytes: int
    """Lower limit."""


ESC_50 = Published(
    name="ESC-50",
    # GitHub packs this archive on demand, so neither size nor hash are stable.
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
    """Download and unpack a data set, unless it is in place.

    The data set is unpacked beside the root, checked, and renamed, so it is never incomplete; of several
    processes one does this and the others wait. Meanwhile the archive lies beside the root; one that was put
    there by hand is used, and stays.

    Args:
        data_set: the data set.
        root: its folder; missing, empty, or with the data set in it.
        mirror: address of the folder of the archive; None: `$AUDIOCLIP_MIRROR` if set, else the published
            address.
        progress: print the address and show bars, or lines without a terminal.

    Returns:
        The root.

    Raises:
        FetchError: the archive cannot be downloaded, there is no room, or the root holds something else.
        ArchiveError: the archive is damaged, unsafe, or lacks clips.
    """
    # Imports torch, which `python -m utils.fetch --help` does without.
    from utils.fetching.atomic_folder import make_once  # noqa: PLC0415

    root = Path(root).expanduser().resolve()
    archive = root.parent / data_set.archive.name

    def is_complete(folder: Path) -> bool:
        if (folder / data_set.table).is_file():
            return True
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FetchError(
                f"{folder}: holds something else than {data_set.name}. Name a folder that is empty or does "
                "not exist."
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
                raise ArchiveError(f"{error} Remove it, and it is downloaded again.") from None
            archive.unlink()
            raise ArchiveError(f"{error} It was deleted.") from None
        os.sync()  # before the folder gets its final name
        if not brought:
            archive.unlink()

    try:
        make_once(root, is_complete=is_complete, fill=fill)
    except FetchError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise FetchError(
            f"{root}: {data_set.name} cannot be written there ({error}). Make room, or name another folder."
        ) from None
    return root


def _check_clips(data_set: Published, folder: Path, archive: Path) -> None:
    """Raise an ArchiveError unless the table has as many clips as published and all files exist."""
    from utils.datasets.sources.tables import read_table  # noqa: PLC0415 - as above

    columns = [column for _, column, _, _ in Formatter().parse(data_set.clip) if column]
    try:
        rows = read_table(folder / data_set.table, columns)
        clips = {data_set.clip.format_map({name: row.file_name(name) for name in columns}) for row in rows}
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{archive}: its {data_set.table} cannot be read ({error}).") from None
    there = sum((folder / clip).is_file() for clip in clips)
    if not there == len(clips) == data_set.clips:
        raise ArchiveError(
            f"{archive}: {there} clips and a table of {len(clips)}; {data_set.name} has {data_set.clips}."
        )
