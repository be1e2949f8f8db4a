"""AudioSet (Gemmeke et al., ICASSP 2017): segments of videos with several labels, their sounds and frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ignite_trainer.api.findings import Inspection
from utils.datasets.cached import check_flags
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.listed import FramesWanted, ListedDataset
from utils.datasets.sample import Entries, Entry
from utils.datasets.sources.audioset_files import (
    CLASSES,
    ONTOLOGY,
    SEGMENTS,
    Media,
    VideoSegment,
    find_media,
    find_table,
    media_folder,
    read_classes,
    read_parents,
    read_segments,
)
from utils.datasets.sources.exclusion import Exclude, exclusion_remedy
from utils.datasets.sources.recordings import youtube

PUBLISHED = {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}
"""Number of segments, by table."""

_TRAINED_ON = {"balanced": ("balanced",), "unbalanced": ("unbalanced",), "both": ("balanced", "unbalanced")}
_MODALITIES = {"audio": "sound", "image": "image"}
_EXTRACT = (
    "sounds by `ffmpeg -i YTID.mp4 -ac 1 -ar 44100 audio/YTID.flac`, frames by "
    "`mkdir -p frames/YTID && ffmpeg -i YTID.mp4 -vf fps=1 frames/YTID/%03d.jpg`"
)


class AudioSet(ListedDataset):
    """The downloaded part of AudioSet: official tables, with sounds and images in any folders.

    `sources/audioset_files.py` lists the supported file names. Segments without files are skipped; `prepare`
    reports how many. Labels are class names from `class_labels_indices.csv`. The other arguments are
    `utils.datasets.listed.ListedDataset`'s.

    Args:
        root: folder that contains the tables, itself or in a subfolder `csv` or `metadata`.
        train: split to use: True for the training segments, False for the evaluation segments.
        train_on: training tables to use: "balanced", "unbalanced" or "both".
        media: folder with sounds and images; None for the root.
        modalities: modalities to use; files of other modalities are ignored.
        complete: whether to use only samples that have all modalities.
        whole_videos: whether the sound files contain whole videos, from which the segments are read; if not,
            each file is a segment.
        parents: whether to add the parents of a sample's labels, from `ontology.json`.

    Raises:
        FileNotFoundError: A table is missing, or all files are.
        ValueError: An argument or a table is invalid.
    """

    title: ClassVar[str] = "AudioSet"
    sources_remedy: ClassVar[str] = exclusion_remedy("AudioSet")
    segments_remedy: ClassVar[str] = 'If the files are these segments already, set "whole_videos": false.'

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
        exclude: Exclude = None,
    ) -> None:
        check_flags(train=train, complete=complete, whole_videos=whole_videos, parents=parents)
        if train_on not in _TRAINED_ON:
            raise ValueError(f'train_on is {train_on!r}; "balanced", "unbalanced" or "both" is expected.')
        if not modalities or isinstance(modalities, str) or not set(modalities) <= _MODALITIES.keys():
            raise ValueError(f'modalities is {modalities!r}; a list of "audio" and "image" is expected.')
        tables_folder = Path(root).expanduser()
        folder = media_folder(tables_folder, media, dataset="AudioSet")
        names = read_classes(find_table(tables_folder, CLASSES))
        sets = _TRAINED_ON[train_on] if train else ("eval",)
        tables = [find_table(tables_folder, SEGMENTS[name]) for name in sets]
        segments = [segment for table in tables for segment in read_segments(table, names)]
        files = find_media(folder, {segment.video: segment.begin for segment in segments}, modalities)
        wanted = set(modalities) if complete else set()
        above = read_parents(find_table(tables_folder, ONTOLOGY), names) if parents else {}
        entries = Entries(_entries(segments, files, wanted, above, whole_videos=whole_videos))
        table_names = " and ".join(table.name for table in tables)
        counted = _counted(len(segments), len(entries), files)
        if not entries:
            needed = " and ".join(_MODALITIES[name] for name in sorted(wanted)) or "sound or image"
            raise FileNotFoundError(
                f"{folder} has no {needed} for any segment of {table_names} ({counted}). Files are found by "
                f"names such as YTID.flac, YTID_30_40.wav, YTID/001.jpg or YTID_1.jpg.{_unused(files)}"
            )
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
            frames=frames,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )
        if len(entries) < len(segments) or files.other_parts:
            self.skipped_notice = f"{table_names}: {counted}.{_unused(files)}"

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Check the tables and the files for `--check`; takes the constructor's arguments."""
        return inspect_listed(cls, args)


def _entries(
    segments: Sequence[VideoSegment],
    media: Media,
    wanted: Collection[str],
    above: Mapping[str, Sequence[str]],
    *,
    whole_videos: bool,
) -> Iterator[Entry]:
    """Make entries for the segments that have a file, or all required modalities."""
    for segment in segments:
        audio = media.sounds.get(segment.video)
        images = tuple(media.pictures.get(segment.video, ()))
        if not (audio or images) or ("audio" in wanted and not audio) or ("image" in wanted and not images):
            continue
        parents = (parent for label in segment.labels for parent in above.get(label, ()))
        part = (segment.begin, segment.end) if audio and whole_videos else None
        labels = tuple(dict.fromkeys((*segment.labels, *parents)))
        yield Entry(audio, images, labels=labels, segment=part, source=youtube(segment.video))


def _counted(listed: int, used: int, media: Media) -> str:
    both = media.sounds.keys() & media.pictures.keys()
    return (
        f"{listed:,} segments listed, {len(media.sounds):,} with a sound, {len(media.pictures):,} with "
        f"images, {len(both):,} with both; {used:,} ({used / max(listed, 1):.1%}) are used"
    )


def _unused(media: Media) -> str:
    """Describe the unusable files."""
    text, others = "", media.other_parts
    if others:
        text += f" {len(others):,} files hold another part of their video, such as {others[0]}."
    if only_videos := len(media.videos - (media.sounds.keys() | media.pictures.keys())):
        text += f" {only_videos:,} segments have only a video, which is not decoded here; extract {_EXTRACT}."
    return text
