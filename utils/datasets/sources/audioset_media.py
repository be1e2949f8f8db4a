"""Files of AudioSet's segments, found by their names in any folders.

| of                   | named (`Y` may stand before the identifier, times are in seconds or ms)         |
|----------------------|----------------------------------------------------------------------------------|
| a sound              | `<ytid>.flac`, `<ytid>_<start>.flac`, `<ytid>_<start>_<end>.flac`                |
| pictures in a folder | `<ytid>/*.jpg`, `<ytid>_<start>/*.jpg`, `<ytid>_<start>_<end>/*.jpg`             |
| pictures             | `<ytid>.jpg`, `<ytid>_<n>.jpg`, `<ytid>_<start>_<end>.jpg`, `..._<end>_<n>.jpg`  |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES
from model.clip.image_input import IMAGE_SUFFIXES
from utils.datasets.sources.audioset_tables import VIDEO
from utils.datasets.sources.walking import files_below

_NUMBER = r"(?:_(\d+(?:\.\d+)?))"
_NAME = re.compile(f"Y?({VIDEO}){_NUMBER}?{_NUMBER}?{_NUMBER}?", re.ASCII)
_DIGITS = re.compile(r"(\d+)")


@dataclass
class Media:
    """What was found of the segments that were looked for; paths are relative to the folder, with `/`.

    Attributes:
        sounds: path by video, of several files of one video the first.
        pictures: paths by video, in the order of their numbers.
        videos: of which there is a file that is not decoded here.
        other_parts: names of files that are of another part of their video.
    """

    sounds: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    videos: set[str] = field(default_factory=set)
    other_parts: list[str] = field(default_factory=list)


def find_media(root: Path, begins: Mapping[str, float], modalities: Collection[str]) -> Media:
    """Look through a folder and all in it, links included.

    Args:
        root: the folder.
        begins: of each segment looked for the video, and where it begins, seconds.
        modalities: "audio", "image" or both.
    """
    media = Media()
    for folder, file in files_below(root):
        stem, _, suffix = file.rpartition(".")
        kind = f".{suffix.lower()}"
        path = f"{folder}{file}"
        if kind in AUDIO_SUFFIXES and "audio" in modalities:
            video, numbers = _video(stem, begins)
            if video and len(numbers) <= 2 and _is_part(numbers[:1], begins[video], path, media):
                media.sounds.setdefault(video, path)
        elif kind in IMAGE_SUFFIXES and "image" in modalities:
            video, numbers = _video(stem, begins)
            times = numbers[: len(numbers) // 2 * 2]  # one number, or the third, is of the picture
            if video is None:
                video, times = _video(folder.rstrip("/").rpartition("/")[2], begins)
            if video and _is_part(times[:1], begins[video], path, media):
                media.pictures.setdefault(video, []).append(path)
        elif kind in UNDECODED_AUDIO_SUFFIXES and (video := _video(stem, begins)[0]):
            media.videos.add(video)
    for paths in media.pictures.values():
        paths.sort(key=_by_number)
    return media


def _video(name: str, begins: Mapping[str, float]) -> tuple[str | None, list[float]]:
    """The video that a name has, None unless it is looked for, and the numbers behind it."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in begins:
        return None, []
    return match[1], [float(number) for number in match.groups()[1:] if number is not None]


def _is_part(times: list[float], begin: float, path: str, media: Media) -> bool:
    """Whether a name says nothing of where its part of the video begins, or what the table says."""
    if all(abs(time - begin) < 1 or abs(time / 1000 - begin) < 1 for time in times):
        return True
    media.other_parts.append(path)
    return False


def _by_number(path: str) -> list[tuple[int, str]]:
    """Sorts `_9.jpg` before `_10.jpg`."""
    return [(int(part) if part.isdecimal() else -1, part) for part in _DIGITS.split(path)]
