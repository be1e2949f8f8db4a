"""Checks of segments: segments beyond the end of their sound, and segments in several places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ignite_trainer.api.findings import Finding
from model.sounds.decoding import Segment
from utils.datasets.checks import error, warning
from utils.datasets.checks.files import Heard, Sound, in_brackets, leaks, listen
from utils.datasets.sample import Entries, Entry
from utils.datasets.sources.cells import shortlist

_SLACK = 0.1  # tolerance for rounded times, in seconds
_LOOKED_AT = 200  # number of file headers to read before a run
_LISTENED_TO = 3  # number of files to decode if segments exceed the header's length, which may be an estimate
_TOUCH = 0.001  # maximum overlap of consecutive parts, in seconds


class Part(NamedTuple):
    """A part of a recording that a data set lists.

    Attributes:
        recording: identifier that equal sounds share, even in different files.
        begin, end: seconds; not beyond the recording.
        length: length of the recording, in seconds; infinite if unknown.
        place: group that the part is held out with, such as "fold 2".
        label: names of the part's classes.
        name: name of the sample.
        is_segment: False for a whole recording.
    """

    recording: str
    begin: float
    end: float
    length: float
    place: str
    label: str
    name: str
    is_segment: bool

    def __str__(self) -> str:
        return in_brackets(self.name, ", ", self.place, self.label)


def misplaced_segments(root: Path, entries: Entries) -> str:
    """Return an error message if most segments lie beyond the ends of their files, and "" otherwise.

    Reads the headers of a few files.
    """
    positions = np.linspace(0, len(entries) - 1, min(_LOOKED_AT, len(entries))).astype(int)
    chosen = [entries[position] for position in positions.tolist()]
    moved = [(root / entry.audio, entry) for entry in chosen if entry.audio and _is_moved(entry.segment)]
    beyond = [(path, entry) for path, entry in moved if _is_elsewhere(entry.segment, _header_seconds(path))]
    if not _are_most(len(beyond), len(moved)):
        return ""
    for path, entry in beyond[:_LISTENED_TO]:
        heard = listen(path)
        if heard.fault is not None or not _is_elsewhere(entry.segment, heard.seconds):
            return ""
    return f"{_most(len(beyond), len(moved))}, such as {entry.name} ({heard.seconds:.2f} s)."


def segment_findings(
    placed: Sequence[tuple[str, Entry]], heard: Mapping[Sound, Heard], *, place: str, remedy: str
) -> Iterator[Finding]:
    """Find segments beyond the end of their file, and parts of the same sound in several folds or splits.

    Args:
        placed: samples, each with its split; "" if the folds decide what is held out together.
        heard: usable sounds.
        place: "fold" or "split".
        remedy: advice if the times belong to other recordings.
    """
    if all(entry.segment is None for _, entry in placed):
        return
    parts = list(_parts(placed, heard))
    yield from _beyond(parts, remedy)
    by_recording: dict[str, list[Part]] = defaultdict(list)
    for part in dict.fromkeys(parts):
        by_recording[part.recording].append(part)
    for found in by_recording.values():
        if any(part.is_segment for part in found):
            groups = _groups(found)
            yield from _same(groups, place)
            yield from _overlapping(groups, place)


def place_of(split: str, entry: Entry) -> str:
    """Return an entry's split, or else its fold, or else ""."""
    return split or ("" if entry.fold is None else f"fold {entry.fold}")


def _parts(placed: Iterable[tuple[str, Entry]], heard: Mapping[Sound, Heard]) -> Iterator[Part]:
    results = {sound.path: result for sound, result in heard.items()}
    for split, entry in placed:
        if entry.audio is not None:
            result = results.get(entry.audio)
            length = result.seconds if result else inf
            begin, end = entry.segment or (0.0, None)
            yield Part(
                recording=result.digest if result and not result.silent else entry.audio,
                begin=begin,
                end=length if end is None else end,
                length=length,
                place=place_of(split, entry),
                label=", ".join(entry.labels),
                name=entry.name,
                is_segment=entry.segment is not None,
            )


def _beyond(parts: Sequence[Part], remedy: str) -> Iterator[Finding]:
    """Find segments that begin or end beyond the end of their file."""
    moved = [part for part in parts if part.is_segment and _is_moved((part.begin, None))]
    beyond = [part for part in moved if _is_elsewhere((part.begin, part.end), part.length)]
    if _are_most(len(beyond), len(moved)):
        where = f"{beyond[0].name} ({beyond[0].length:.2f} s)"
        yield error(f"{_most(len(beyond), len(moved))}.", where, remedy)
        return
    advice = "Correct its times, or download the file again."
    for part in dict.fromkeys(part._replace(place="", label="") for part in parts if part.is_segment):
        where = f"{part.name} ({part.length:.2f} s)"
        if part.begin >= part.length:
            yield error("The segment begins beyond the end of its file.", where, advice)
        elif part.end > part.length + _SLACK:
            what = "The segment ends beyond the end of its file, so it is shorter than the table says."
            yield warning(what, where, advice)


def _same(groups: Iterable[Sequence[Part]], place: str) -> Iterator[Finding]:
    """Find the same part of one recording in several places, or with several labels."""
    for group in groups:
        if not any(part.is_segment for part in group):
            continue  # the check of files reports equal files
        if len({part.place for part in group}) > 1:
            yield _in_several(group, place)
        elif len({part.label for part in group}) > 1:
            yield error(
                "The same part of a sound has several labels.",
                shortlist(group),
                "Keep the right one; if several are right, list them in one row.",
            )


def _overlapping(groups: Iterable[Sequence[Part]], place: str) -> Iterator[Finding]:
    """Find parts of one recording in several places that overlap without being the same."""
    # Among the parts that began before: the one that ends last, and the last to end in another place.
    last: list[Part] = []
    for group in sorted(groups, key=lambda group: (group[0].begin, -group[0].end)):
        for part in group:
            other = next((earlier for earlier in last if earlier.place != part.place), None)
            if other is None or min(other.end, part.end, part.length) - part.begin < _TOUCH:
                continue
            if part.end <= other.end + _TOUCH:  # all of it
                yield _in_several([other, part], place)
            else:
                yield warning(
                    f"The overlap of two parts of a sound {leaks(place)}.",
                    shortlist([other, part]),
                    f"Put all parts of a recording into one {place}.",
                )
        for part in group:
            ranked = sorted([*last, part], key=lambda part: -part.end)
            last = [ranked[0], *(other for other in ranked if other.place != ranked[0].place)][:2]


def _groups(parts: Iterable[Part]) -> list[list[Part]]:
    """Group parts whose times are equal to a millisecond."""
    groups: dict[Segment, list[Part]] = defaultdict(list)
    for part in parts:
        groups[round(part.begin, 3), round(min(part.end, part.length), 3)].append(part)
    return [*groups.values()]


def _in_several(parts: Sequence[Part], place: str) -> Finding:
    return error(f"The same part of a sound {leaks(place)}.", shortlist(parts), "Keep one of them.")


def _is_moved(segment: Segment | None) -> bool:
    """Return whether a segment begins after the start of its file; others fit any meaning of its times."""
    return segment is not None and segment[0] > _SLACK


def _is_elsewhere(segment: Segment | None, seconds: float) -> bool:
    """Return whether a segment begins beyond its file's end, or exceeds it and is as long as the file."""
    begin, end = segment or (0.0, None)
    if end is None or begin >= seconds:
        return begin >= seconds
    return end > seconds + _SLACK and abs(end - begin - seconds) <= _SLACK


def _header_seconds(path: Path) -> float:
    """Read the length of a file from its header; infinite if unreadable, which other checks report."""
    try:
        about = soundfile.info(path)
    except (OSError, RuntimeError, TypeError):
        return inf
    return float(about.frames / about.samplerate)


def _are_most(beyond: int, moved: int) -> bool:
    return beyond > 1 and 2 * beyond >= moved


def _most(beyond: int, moved: int) -> str:
    return f"{beyond:,} of {moved:,} segments that do not begin with their file lie beyond its end"
