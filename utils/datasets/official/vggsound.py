"""VGGSound (Chen et al., "VGGSound: A Large-scale Audio-Visual Dataset", ICASSP 2020): its sounds."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from utils.datasets.cached import check_flags, checked_share, share_of
from utils.datasets.official.splits import OfficialDataset, Split, splits_of
from utils.datasets.sample import TEST, TRAIN, VALIDATION, Entry
from utils.datasets.sources.audioset_files import VIDEO, find_sounds, find_table, media_folder, unused_sounds
from utils.datasets.sources.cells import Place, Record, RowError, shortlist
from utils.datasets.sources.exclusion import Exclude, check_that_something_is_held_out, exclusion_remedy
from utils.datasets.sources.recordings import youtube
from utils.datasets.sources.tables import lines_left_out, open_lines, refuse_no_table

PUBLISHED = {TRAIN: 183_971, TEST: 15_496}
"""Number of clips, by split."""
CLASSES = 309

_COLUMNS = ("youtube_id", "start_seconds", "label", "split")
_GET_IT = (
    "put the table of VGGSound there (robots.ox.ac.uk/~vgg/data/vggsound), or name its folder with "
    "--Dataset.args.root FOLDER."
)


class VGGSound(OfficialDataset):
    """The downloaded part of VGGSound: clips of 10 s from YouTube with one of 309 labels; test is held out.

    Sounds may be in any folders. They are found by video and start, as in `YTID_000030.wav` and
    `YTID_30_40.flac` (see `sources/audioset_files.py`); `YTID.wav` is enough if the table lists one clip of
    the video. Clips without a file are skipped; `prepare` reports how many. The other arguments are
    `utils.datasets.listed.ListedDataset`'s.

    Args:
        root: folder that contains `vggsound.csv`, whose lines are `youtube_id,start_seconds,label,split`,
            itself or in a subfolder such as `csv` or `metadata`.
        train: split to use: True for the training clips, False for the test clips.
        media: folder with the sounds; None for the root.
        validation_share: fraction of the training videos whose clips choose the best epoch, instead of being
            trained on, 0..1, chosen by a hash of the videos' identifiers. None for no validation.
        whole: whether both splits are the whole data set, of which a linear probe chooses its parts.

    Raises:
        FileNotFoundError: The table is missing, or all sounds are.
        ValueError: An argument or the table is invalid.
    """

    title: ClassVar[str] = "VGGSound"
    sources_remedy: ClassVar[str] = exclusion_remedy("VGGSound")
    to_hold_out: ClassVar[str] = 'the test clips with "whole": false'

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        media: str | Path | None = None,
        validation_share: float | None = None,
        whole: bool = False,
        mono: bool | None = True,
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        check_flags(train=train, whole=whole)
        check_that_something_is_held_out(exclude, held_out=not whole)
        share = None if validation_share is None else checked_share("validation_share", validation_share)
        table_folder = Path(root).expanduser()
        table = find_table(table_folder, "vggsound.csv", advice=_GET_IT)
        folder = media_folder(table_folder, media, dataset="VGGSound")
        rows = list(_read(table))
        names = _class_names(table, rows)
        begins: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            begins[row.video].append(row.begin)
        sounds = find_sounds(folder, begins)
        parts = list[Split]()
        for name in (TRAIN, TEST) if whole else (TRAIN if train else TEST,):
            listed = [row for row in rows if row.split == name]
            entries = [
                Entry(sounds.paths[row.video, row.begin], labels=(row.label,), source=youtube(row.video))
                for row in listed
                if (row.video, row.begin) in sounds.paths
            ]
            remark = unused_sounds(sounds) if not parts else ""
            part = Split(name, table.name, PUBLISHED[name], len(listed), entries, remark)
            part.refuse_no_sound(folder, "Names such as YTID_000030.wav or YTID_30_40.flac are expected.")
            parts.append(part)
        splits = splits_of(parts, {TRAIN: TRAIN, TEST: TEST})
        if share is not None and parts[0].name == TRAIN:
            videos = [str(entry.source) for entry in parts[0].entries]
            splits[np.flatnonzero(share_of(videos, share, salt="validation: "))] = VALIDATION
        super().__init__(
            folder,
            parts,
            splits,
            train=train,
            validation=share is not None and not whole,
            whole=whole,
            class_names=names,
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )


class _Row(NamedTuple):
    video: str
    begin: float  # seconds
    label: str
    split: str


def _read(table: Path) -> Iterator[_Row]:
    """Read the table, which has no header; an error names the line."""
    refuse_no_table(table)
    seen = set[tuple[str, float]]()
    left_out = lines_left_out(table)
    with open_lines(table) as lines:
        for values in (reader := csv.reader(lines)):
            if not values or reader.line_num in left_out:
                continue
            if len(values) != len(_COLUMNS):
                remedy = (
                    "a line is `youtube_id,start_seconds,label,split`; put a label with commas into quotes."
                )
                raise RowError(Place(table, reader.line_num), f"{len(values)} values", remedy)
            record = Record(table, reader.line_num, dict(zip(_COLUMNS, values, strict=True)))
            video, begin = record.required("youtube_id"), record.required_number("start_seconds")
            if not re.fullmatch(VIDEO, video, re.ASCII):
                record.fail("youtube_id", "a YouTube identifier of 11 characters")
            if (video, begin) in seen:
                record.fail("start_seconds", f"a clip of {video} that no earlier line has")
            seen.add((video, begin))
            label, split = record.required("label"), record.required("split")
            if split not in PUBLISHED:
                record.fail("split", '"train" or "test"')
            yield _Row(video, begin, label, split)


def _class_names(table: Path, rows: Sequence[_Row]) -> list[str]:
    """Return the labels of all rows, sorted; raise ValueError if there are more than VGGSound has."""
    counts = Counter(row.label for row in rows)
    if len(counts) > CLASSES:
        rare = [f"{name} ({count})" for name, count in counts.most_common()[CLASSES:]]
        raise ValueError(
            f"{table} has {len(counts)} labels; VGGSound has {CLASSES}. The rarest are {shortlist(rare)}."
        )
    return sorted(counts)
