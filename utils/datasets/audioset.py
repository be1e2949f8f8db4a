"""AudioSet (Gemmeke et al., ICASSP 2017): segments of videos with several labels, their sounds and frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from utils.datasets.folds import check_flag
from utils.datasets.listed import FramesWanted, ListedDataset
from utils.datasets.sources.audioset_media import Media, find_media
from utils.datasets.sources.audioset_tables import (
    CLASSES,
    ONTOLOGY,
    SEGMENTS,
    VideoSegment,
    find_table,
    read_classes,
    read_parents,
    read_segments,
)
from utils.datasets.sources.entries import Entries, Entry

PUBLISHED = {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}
"""Segments of each table."""

_TRAINED_ON = {"balanced": ("balanced",), "unbalanced": ("unbalanced",), "both": ("balanced", "unbalanced")}
_MODALITIES = ("audio", "image")
_EXTRACT = (
    "sounds by `ffmpeg -i YTID.mp4 -ac 1 -ar 44100 audio/YTID.flac`, frames by "
    "`mkdir -p frames/YTID && ffmpeg -i YTID.mp4 -vf fps=1 frames/YTID/%03d.jpg`"
)


@dataclass(frozen=True)
class Counted:
    """How many segments the tables list, how many have a sound, pictures, both; how many are used."""

    listed: int
    audio: int
    image: int
    both: int
    used: int

    def __str__(self) -> str:
        return (
            f"{self.listed:,} segments listed, {self.audio:,} with a sound, {self.image:,} with pictures, "
            f"{self.both:,} with both; {self.used:,} ({self.used / self.listed:.1%}) are used"
        )


class AudioSet(ListedDataset):
    """What is there of AudioSet: official tables, and sounds and pictures in any folders, found by name.

    `sources/audioset_media.py` lists the names. Segments of which nothing is there are left out; how many is
    told by `prepare`, and in `counted`. Labels are names as `class_labels_indices.csv` has them.

    Args:
        root: folder of the tables, or in which a folder `csv` or `metadata` has them.
        sample_rate: of the samples, Hz.
        train: True: what is trained on; False: the segments for evaluation.
        train_on: "balanced", "unbalanced" or "both" tables.
        media: folder of sounds and pictures; None: the root.
        modalities: which are used; of others no file is looked for.
        complete: whether to use only samples that have all of these.
        whole_videos: whether sounds are those of whole videos, of which the segment is read; else a file is
            the segment.
        parents: whether a sample has the labels, too, of which its own are a kind, by `ontology.json`.
        mono, frames, cache, progress: as those of `utils.datasets.listed.ListedDataset`.

    Attributes:
        counted: how many segments are listed, there and used, in this split.

    Raises:
        FileNotFoundError: a table is not there, or none of the files.
        ValueError: an argument or a table is wrong.
    """

    title: ClassVar[str] = "AudioSet"
    to_take_whole: ClassVar[str] = 'If the files are these segments already, set "whole_videos": false.'

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        train_on: Literal["balanced", "unbalanced", "both"] = "balanced",
        media: str | Path | None = None,
        modalities: Sequence[Literal["audio", "image"]] = ("audio", "image"),
        complete: bool = False,
        whole_videos: bool = False,
        parents: bool = False,
        mono: bool | None = True,
        frames: FramesWanted = "central",
        cache: str | Path | bool | None = None,
        progress: bool = True,
    ) -> None:
        for name, flag in (("train", train), ("complete", complete), ("whole_videos", whole_videos)):
            check_flag(name, flag)
        check_flag("parents", parents)
        if train_on not in _TRAINED_ON:
            raise ValueError(f'train_on is {train_on!r}; "balanced", "unbalanced" or "both" is expected.')
        if not modalities or isinstance(modalities, str) or not set(modalities) <= set(_MODALITIES):
            raise ValueError(f'modalities is {modalities!r}; a list of "audio" and "image" is expected.')
        tables_folder = Path(root).expanduser()
        folder = Path(media).expanduser() if media is not None else tables_folder
        if not folder.is_dir():
            name = "root" if media is None else "media"
            raise FileNotFoundError(
                f"{name} is {folder}, which is not a folder. Name that of AudioSet with "
                f"--Dataset.args.{name} FOLDER."
            )
        names = read_classes(find_table(tables_folder, CLASSES))
        sets = _TRAINED_ON[train_on] if train else ("eval",)
        segments = [
            segment
            for name in sets
            for segment in read_segments(find_table(tables_folder, SEGMENTS[name]), names)
        ]
        found = find_media(folder, {segment.video: segment.begin for segment in segments}, modalities)
        wanted = set(modalities) if complete else set()
        above = read_parents(find_table(tables_folder, ONTOLOGY), names) if parents else {}
        entries = Entries(_entries(segments, found, wanted, above, whole_videos=whole_videos))
        self.counted = _count(segments, found, used=len(entries))
        tables = " and ".join(SEGMENTS[name] for name in sets)
        if not entries:
            raise FileNotFoundError(_nothing(folder, tables, self.counted, found, wanted))
        published = sum(PUBLISHED[name] for name in sets)
        self.results_name = self.title
        if len(entries) != published:
            self.results_name = f"part of AudioSet ({len(entries):,} of {published:,} segments)"
        super().__init__(
            folder,
            entries,
            None,
            train=train,
            class_names=list(names.values()),
            sample_rate=sample_rate,
            mono=mono,
            described=False,
            frames=frames,
            cache=cache,
            progress=progress,
        )
        if len(entries) < len(segments) or found.other_parts:
            self.notice = f"{tables}: {self.counted}.{_beside(found)}"


def _entries(
    segments: Sequence[VideoSegment],
    found: Media,
    wanted: Collection[str],
    above: Mapping[str, Sequence[str]],
    *,
    whole_videos: bool,
) -> Iterator[Entry]:
    """Samples of the segments of which there is something, and all that is wanted."""
    for segment in segments:
        audio = found.sounds.get(segment.video)
        images = tuple(found.pictures.get(segment.video, ()))
        if not (audio or images) or ("audio" in wanted and not audio) or ("image" in wanted and not images):
            continue
        labels = dict.fromkeys(segment.labels)
        labels |= dict.fromkeys(parent for label in segment.labels for parent in above.get(label, ()))
        part = (segment.begin, segment.end) if audio and whole_videos else None
        yield Entry(audio, images, labels=tuple(labels), segment=part)


def _count(segments: Sequence[VideoSegment], found: Media, *, used: int) -> Counted:
    both = len(found.sounds.keys() & found.pictures.keys())
    return Counted(len(segments), len(found.sounds), len(found.pictures), both, used)


def _beside(found: Media) -> str:
    """What to say of files that could not be used."""
    said = ""
    if found.other_parts:
        said += (
            f" {len(found.other_parts):,} files are of another part of their video than the table says, such "
            f"as {found.other_parts[0]}."
        )
    only = len(found.videos - (found.sounds.keys() | found.pictures.keys()))
    if only:
        said += f" Of {only:,} there are only videos, which are not decoded here: {_EXTRACT}."
    return said


def _nothing(root: Path, tables: str, counted: Counted, found: Media, wanted: Collection[str]) -> str:
    needed = " and ".join({"audio": "a sound", "image": "a picture"}[one] for one in sorted(wanted))
    return (
        f"{root} has for none of the segments of {tables} {needed or 'a sound or a picture'} ({counted}). "
        "Looked for are names such as YTID.flac, YTID_30_40.wav, YTID/001.jpg or YTID_1.jpg, in any folder."
        + _beside(found)
    )
