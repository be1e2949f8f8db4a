"""Reads AudioSet's official tables, and finds the files of videos' segments by name in any folders.

| files                | names (`Y` may precede the identifier, times are in seconds or ms)               |
|----------------------|----------------------------------------------------------------------------------|
| a sound              | `<ytid>.flac`, `<ytid>_<start>.flac`, `<ytid>_<start>_<end>.flac`                |
| images in a folder   | `<ytid>/*.jpg`, `<ytid>_<start>/*.jpg`, `<ytid>_<start>_<end>/*.jpg`             |
| images               | `<ytid>.jpg`, `<ytid>_<n>.jpg`, `<ytid>_<start>_<end>.jpg`, `..._<end>_<n>.jpg`  |
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from model.audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES
from model.clip.image_input import IMAGE_SUFFIXES
from model.storage.walking import files_below
from utils.datasets.sources.cells import Place, Record, RowError
from utils.datasets.sources.tables import lines_left_out, open_lines, read_table, refuse_no_table

SEGMENTS = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
CLASSES = "class_labels_indices.csv"
ONTOLOGY = "ontology.json"

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
_FOLDERS = (".", "csv", "meta", "metadata", "segments", "dataset")
_GET_AUDIOSET = (
    "put AudioSet's tables there (research.google.com/audioset/download.html), or name their folder with "
    "--Dataset.args.root FOLDER."
)
VIDEO = r"[A-Za-z0-9_-]{11}"
"""Regular expression for a YouTube identifier."""
_NUMBER = r"(?:_(\d+(?:\.\d+)?))"
_NAME = re.compile(f"Y?({VIDEO}){_NUMBER}?{_NUMBER}?{_NUMBER}?", re.ASCII)
_EXTRACT_SOUND = "`ffmpeg -ss START -t 10 -i YTID.mp4 -ac 1 -ar 44100 audio/YTID_START.flac`"
_DIGITS = re.compile(r"(\d+)")


class VideoSegment(NamedTuple):
    """A line of a table: segment of a video, in seconds, and its class names in the order of the table."""

    video: str
    begin: float
    end: float
    labels: tuple[str, ...]


@dataclass
class Media:
    """The files found for some segments; paths are relative to the folder, with `/`.

    Attributes:
        sounds: path of the sound, by video; the first path if there are several.
        pictures: paths of the images, by video, in the order of their numbers.
        videos: videos that have a file in an unsupported format.
        other_parts: files that contain another part of their video.
    """

    sounds: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    videos: set[str] = field(default_factory=set)
    other_parts: list[str] = field(default_factory=list)


class Sounds(NamedTuple):
    """The sounds found for some segments, of which a video may have several.

    Attributes:
        paths: path of the sound, relative to the folder, with `/`, by video and start in seconds; the first
            path if there are several.
        videos: videos that have a file in an unsupported format.
        other_parts: files that contain another part of their video, or do not say which of its segments.
    """

    paths: dict[tuple[str, float], str]
    videos: set[str]
    other_parts: list[str]


def find_table(root: Path, name: str, *, advice: str = _GET_AUDIOSET) -> Path:
    """Find a table in the root or in one of its usual folders; an error ends with the advice.

    Raises:
        FileNotFoundError: The table is in none of these folders.
    """
    found = next((root / folder / name for folder in _FOLDERS if (root / folder / name).is_file()), None)
    if found is None:
        folders = ", ".join(f"{folder}/" for folder in _FOLDERS[1:])
        raise FileNotFoundError(
            f"root is {root}, which has no {name}, nor do its folders {folders}; {advice}"
        )
    return found


def media_folder(root: Path, media: str | Path | None, *, dataset: str) -> Path:
    """Return the folder to search for media files: `media`, or otherwise the root.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = root if media is None else Path(media).expanduser()
    if not folder.is_dir():
        name = "root" if media is None else "media"
        remedy = f"Name that of {dataset} with --Dataset.args.{name} FOLDER."
        raise FileNotFoundError(f"{name} is {folder}, which is not a folder. {remedy}")
    return folder


def read_classes(table: Path) -> dict[str, str]:
    """Read the class names, by identifier such as "/m/09x0r", in the order of the scores.

    Raises:
        ValueError: A number is out of order, or a name or an identifier is repeated.
    """
    names: dict[str, str] = {}
    for row in read_table(table, ["index", "mid", "display_name"]):
        mid, name = row.required("mid"), row.required("display_name")
        # No RowError: without this line, the following ones would have the wrong number.
        if row.required_number("index") != len(names):
            raise ValueError(
                f"{table}, line {row.line}: index is {row.text('index')}; {len(names)} is expected. The "
                "table lists all classes, from 0 on, as AudioSet publishes it; only segments can be skipped."
            )
        if mid in names or name in names.values():
            raise ValueError(f'{table}, line {row.line}: "{mid}" or "{name}" is listed a second time.')
        names[mid] = name
    if not names:
        raise ValueError(f"{table} lists no classes.")
    return names


def read_segments(table: Path, names: Mapping[str, str]) -> Iterator[VideoSegment]:
    """Read a table of segments: lines `YTID, start_seconds, end_seconds, "mid,mid"`, and comments (`#`).

    `names` are the class names, by identifier.

    Raises:
        ValueError: A value is invalid or a video is repeated; the message names file and line.
    """
    refuse_no_table(table)
    is_video = re.compile(VIDEO).fullmatch
    seen: set[str] = set()
    left_out = lines_left_out(table)
    with open_lines(table) as lines:
        reader = csv.reader(lines, skipinitialspace=True)
        for values in reader:
            if not values or values[0].startswith("#") or reader.line_num in left_out:
                continue
            try:
                video, begin, end, mids = values
                labels = tuple(names[mid] for mid in mids.split(","))
                segment = VideoSegment(video, float(begin), float(end), labels)
            except (ValueError, KeyError):
                _refuse(table, reader.line_num, values, names)
            # There are millions of lines, so only faulty lines are examined in detail.
            if not (is_video(video) and 0 <= segment.begin < segment.end < 1e9) or video in seen:
                _refuse(table, reader.line_num, values, names)
            seen.add(video)
            yield segment


def _refuse(table: Path, line: int, values: Sequence[str], names: Mapping[str, str]) -> NoReturn:
    """Raise an error that describes the fault in a line."""
    if len(values) != len(_COLUMNS):
        raise RowError(
            Place(table, line),
            f"{len(values)} values instead of {len(_COLUMNS)}",
            'a line is `YTID, start_seconds, end_seconds, "mid,mid"`.',
        )
    record = Record(table, line, dict(zip(_COLUMNS, values, strict=True)))
    if not re.fullmatch(VIDEO, values[0]):
        record.fail("YTID", "a YouTube identifier of 11 characters")
    begin, end = record.number("start_seconds"), record.number("end_seconds")
    if begin is None or end is None or end <= begin:
        record.fail("end_seconds", "a time in seconds later than the start")
    for mid in values[3].split(","):
        if mid not in names:
            known = f"identifiers from {CLASSES}, which has no {mid or 'empty'},"
            record.fail("positive_labels", known)
    record.fail("YTID", "a video that no earlier line has")


def read_parents(ontology: Path, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Read each class's direct and indirect parents, by name, in the order of the classes.

    Raises:
        ValueError: The file is not AudioSet's ontology.
    """
    try:
        listed: Any = json.loads(ontology.read_text(encoding="utf-8-sig"))
        children = {str(one["id"]): [str(child) for child in one["child_ids"]] for one in listed}
        if not children:
            raise ValueError("empty")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{ontology} is not AudioSet's ontology, a list of objects with id and child_ids: {error!r}."
        ) from error

    def ancestors(mid: str) -> set[str]:
        found, waiting = set[str](), [mid]
        while waiting:
            child = waiting.pop()
            new = {parent for parent, below in children.items() if child in below} - found
            found |= new
            waiting += new
        return found

    above = {mid: ancestors(mid) for mid in names}
    return {
        name: tuple(names[other] for other in names if other in above[mid] and other != mid)
        for mid, name in names.items()
    }


def find_media(root: Path, begins: Mapping[str, float], modalities: Collection[str]) -> Media:
    """Find the files of segments in a folder and its subfolders.

    `begins` has the start of each wanted segment, in seconds, by video.
    """
    media = Media()
    for folder, file in files_below(root):
        stem, _, suffix = file.rpartition(".")
        kind = f".{suffix.lower()}"
        path = f"{folder}{file}"
        video, numbers = _video(stem, begins)
        if kind in AUDIO_SUFFIXES and "audio" in modalities:
            if video and len(numbers) <= 2 and _is_part(numbers[:1], begins[video], path, media):
                media.sounds.setdefault(video, path)
        elif kind in IMAGE_SUFFIXES and "image" in modalities:
            times = numbers[: len(numbers) // 2 * 2]  # a single or third number counts images
            if video is None:
                video, times = _video(folder.rstrip("/").rpartition("/")[2], begins)
            if video and _is_part(times[:1], begins[video], path, media):
                media.pictures.setdefault(video, []).append(path)
        elif kind in UNDECODED_AUDIO_SUFFIXES and video:
            media.videos.add(video)
    for paths in media.pictures.values():
        paths.sort(key=_by_number)
    return media


def find_sounds(root: Path, begins: Mapping[str, Sequence[float]]) -> Sounds:
    """Find the sounds of segments in a folder and its subfolders.

    `begins` has the starts of the wanted segments, in seconds, by video.
    """
    sounds = Sounds({}, set(), [])
    for folder, file in files_below(root):
        stem, _, suffix = file.rpartition(".")
        video, numbers = _video(stem, begins)
        if video and f".{suffix.lower()}" in AUDIO_SUFFIXES and len(numbers) <= 2:
            own = begins[video]
            found = [begin for begin in own if not numbers or _starts_at(numbers[0], begin)]
            if len(found) > 1 and numbers:
                found = [min(found, key=lambda begin: abs(begin - numbers[0]))]
            if len(found) == 1:
                sounds.paths.setdefault((video, found[0]), f"{folder}{file}")
            else:
                sounds.other_parts.append(f"{folder}{file}")
        elif video and f".{suffix.lower()}" in UNDECODED_AUDIO_SUFFIXES:
            sounds.videos.add(video)
    return sounds


def unused_sounds(sounds: Sounds) -> str:
    """Describe the files that `find_sounds` cannot use, as sentences with a space before them."""
    text = ""
    if sounds.other_parts:
        text += (
            f" {len(sounds.other_parts):,} files hold another part of their video, or do not say which, such "
            f"as {sounds.other_parts[0]}."
        )
    if only_videos := len(sounds.videos - {video for video, _ in sounds.paths}):
        text += f" {only_videos:,} videos are not decoded here; extract sounds by {_EXTRACT_SOUND}."
    return text


def _video(name: str, begins: Container[str]) -> tuple[str | None, list[float]]:
    """Return the video in a file name (None if it is not wanted) and the numbers that follow it."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in begins:
        return None, []
    return match[1], [float(number) for number in match.groups()[1:] if number is not None]


def _is_part(times: list[float], begin: float, path: str, media: Media) -> bool:
    """Return whether the times in a file name match the start of its segment, or are absent."""
    if all(_starts_at(time, begin) for time in times):
        return True
    media.other_parts.append(path)
    return False


def _starts_at(time: float, begin: float) -> bool:
    """Return whether a time in a file name is a segment's start; from 1000 on, it may be in milliseconds."""
    return abs(time - begin) < 1 or (time >= 1000 and abs(time / 1000 - begin) < 1)


def _by_number(path: str) -> list[tuple[int, str]]:
    """Sort `_9.jpg` before `_10.jpg`."""
    return [(int(part) if part.isdecimal() else -1, part) for part in _DIGITS.split(path)]
