"""AudioCaps (Kim et al., "AudioCaps: Generating Captions for Audios in The Wild", NAACL 2019)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from utils.datasets.cached import check_flags
from utils.datasets.official.splits import OfficialDataset, Split, splits_of
from utils.datasets.sample import TEST, TRAIN, VALIDATION, Entry
from utils.datasets.sources.audioset_files import (
    VIDEO,
    Sounds,
    find_sounds,
    find_table,
    media_folder,
    unused_sounds,
)
from utils.datasets.sources.exclusion import Exclude, exclusion_remedy
from utils.datasets.sources.recordings import youtube
from utils.datasets.sources.tables import read_table

PUBLISHED = {"train": 49_838, "val": 495, "test": 975}
"""Number of clips, by split, of the first version; a clip of val and test has five captions."""

SECONDS = 10.0
"""Length of a clip."""

_KINDS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_GET_IT = (
    "put train.csv, val.csv and test.csv from github.com/cdjkim/audiocaps (folder dataset) there, or name "
    "their folder with --Dataset.args.root FOLDER."
)


class AudioCaps(OfficialDataset):
    """The downloaded part of AudioCaps: captions of segments of AudioSet; the test split is held out.

    Training clips have one caption, the others five. Equal captions of a clip stay, as published figures
    count each. Sounds may be in any folders. They are found by video and start, as in `YTID.flac` and
    `YTID_30_40.wav` (see `sources/audioset_files.py`). Clips without a sound are skipped; `prepare` reports
    how many. The other arguments are `utils.datasets.listed.ListedDataset`'s.

    Args:
        root: folder that contains the tables, itself or in a subfolder `dataset`, `csv` or `metadata`.
        train: split to use: True for the training clips, False for the test clips.
        validation: whether the clips of `val.csv` choose the best epoch; if not, they are not used.
        media: folder with the sounds; None for the root.
        whole_videos: whether the sound files contain whole videos, from which the clips of 10 s are read; if
            not, each file is a clip.

    Raises:
        FileNotFoundError: A table is missing, or all sounds of a table are.
        ValueError: An argument or a table is invalid.
    """

    title: ClassVar[str] = "AudioCaps"
    sources_remedy: ClassVar[str] = exclusion_remedy("AudioCaps")
    segments_remedy: ClassVar[str] = 'If the files are these segments already, set "whole_videos": false.'

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        validation: bool = False,
        media: str | Path | None = None,
        whole_videos: bool = False,
        mono: bool | None = True,
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        check_flags(train=train, validation=validation, whole_videos=whole_videos)
        tables_folder = Path(root).expanduser()
        folder = media_folder(tables_folder, media, dataset="AudioCaps")
        names = ["train", *["val"] * validation] if train else ["test"]
        tables = {name: _read(find_table(tables_folder, f"{name}.csv", advice=_GET_IT)) for name in names}
        begins = defaultdict[str, list[float]](list)
        for video, begin in (clip for captions in tables.values() for clip in captions):
            begins[video].append(begin)
        sounds = find_sounds(folder, {video: [0.0] for video in begins} if whole_videos else begins)
        parts = []
        for name, captions in tables.items():
            entries = list(_entries(captions, sounds, whole_videos=whole_videos))
            remark = unused_sounds(sounds) if name == names[0] else ""
            part = Split(name, f"{name}.csv", PUBLISHED[name], len(captions), entries, remark)
            part.refuse_no_sound(folder, "Files are found by names such as YTID.flac or YTID_30_40.wav.")
            parts.append(part)
        super().__init__(
            folder,
            parts,
            splits_of(parts, _KINDS),
            train=train,
            validation=validation,
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )


def _read(table: Path) -> dict[tuple[str, float], list[str]]:
    """Read the captions of each clip, by video and start in seconds; a row has one caption."""
    clips: dict[tuple[str, float], list[str]] = {}
    for row in read_table(table, ["youtube_id", "start_time", "caption"]):
        video = row.required("youtube_id")
        if not re.fullmatch(VIDEO, video, re.ASCII):
            row.fail("youtube_id", "a YouTube identifier of 11 characters")
        begin = row.number("start_time")
        if begin is None:
            row.fail("start_time", "a time in seconds")
        captions = clips.setdefault((video, begin), [])
        captions += row.captions("caption") or row.fail("caption", "a caption")
    return clips


def _entries(
    clips: Mapping[tuple[str, float], Sequence[str]], sounds: Sounds, *, whole_videos: bool
) -> Iterator[Entry]:
    """Make entries for the clips that have a sound."""
    for (video, begin), captions in clips.items():
        audio = sounds.paths.get((video, 0.0 if whole_videos else begin))
        if audio is not None:
            part = (begin, begin + SECONDS) if whole_videos else None
            yield Entry(audio, captions=tuple(captions), segment=part, source=youtube(video))
