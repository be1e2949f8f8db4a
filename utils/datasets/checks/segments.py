"""Segments held against the sounds they are parts of: beyond their ends, or listed in two places."""

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
from utils.datasets.checks.files import Sound
from utils.datasets.sources.entries import Entry
from utils.datasets.sources.hearing import Heard, listen

_SLACK = 0.1  # seconds by which times of a table may be rounded
_LOOKED_AT = 200  # headers of files before a run
_LISTENED_TO = 3  # of those whose headers say that a segment lies beyond: headers may be estimates
_SHOWN = 4  # of parts that are the same
_TOUCH = 0.001  # seconds; parts that follow each other share no more


class Part(NamedTuple):
    """A part of a recording as a data set lists it.

    Attributes:
        recording: the same for the same sound, whatever its file.
        begin, end: seconds; no further than the recording.
        length: of the recording, seconds; infinite if it is not known.
        place: of what is held out together, such as "fold 2".
        label: names of its classes.
        name: of the sample.
        is_segment: False: it is all of the recording.
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
        said = ", ".join(filter(None, (self.place, self.label)))
        return f"{self.name} ({said})" if said else self.name


def times_of_sources(root: Path, entries: Sequence[Entry]) -> str:
    """Say that most segments lie beyond the ends of their files, by the headers of a few; "": they do not."""
    positions = np.linspace(0, len(entries) - 1, min(_LOOKED_AT, len(entries))).astype(int)
    chosen = [(entry.audio, entry) for entry in (entries[int(position)] for position in positions)]
    moved = [(root / audio, entry) for audio, entry in chosen if audio and _is_moved(entry.segment)]
    beyond = [(path, entry) for path, entry in moved if _is_elsewhere(entry.segment, _header_seconds(path))]
    if not _are_most(len(beyond), len(moved)):
        return ""
    for path, entry in beyond[:_LISTENED_TO]:
        heard = listen(path)
        if heard.fault is not None or not _is_elsewhere(entry.segment, heard.samples / heard.rate):
            return ""
    such_as = f"{entry.name} ({heard.samples / heard.rate:.2f} s)"
    return f"{_most(len(beyond), len(moved))}, such as {such_as}."


def segment_findings(
    placed: Sequence[tuple[str, Entry]], heard: Mapping[Sound, Heard], *, place: str, remedy: str
) -> Iterator[Finding]:
    """Find faults of segments: their place in the file, and other listings of the same sound.

    Args:
        placed: samples, and the split that each is in; "": the fold says what is held out together.
        heard: sounds that were listened to and can be used.
        place: "fold" or "split".
        remedy: where the times are those of other recordings.
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
            yield from _same(found, place)
            yield from _overlapping(found, place)


def place_of(split: str, entry: Entry) -> str:
    """Return the split of an entry, or else its fold; "" if it has neither."""
    return split or ("" if entry.fold is None else f"fold {entry.fold}")


def _parts(placed: Iterable[tuple[str, Entry]], heard: Mapping[Sound, Heard]) -> Iterator[Part]:
    known = {sound.path: one for sound, one in heard.items()}
    for split, entry in placed:
        if entry.audio is not None:
            one = known.get(entry.audio)
            length = one.samples / one.rate if one else inf
            begin, end = entry.segment or (0.0, None)
            yield Part(
                recording=one.digest if one and not one.silent else entry.audio,
                begin=begin,
                end=length if end is None else end,
                length=length,
                place=place_of(split, entry),
                label=", ".join(entry.labels),
                name=entry.name,
                is_segment=entry.segment is not None,
            )


def _beyond(parts: Sequence[Part], remedy: str) -> Iterator[Finding]:
    """Segments of which there is nothing, or less than the table says."""
    moved = [part for part in parts if part.is_segment and _is_moved((part.begin, None))]
    beyond = [part for part in moved if _is_elsewhere((part.begin, part.end), part.length)]
    if _are_most(len(beyond), len(moved)):
        yield Finding(
            severity="error",
            what=f"{_most(len(beyond), len(moved))}.",
            where=f"{beyond[0].name} ({beyond[0].length:.2f} s)",
            remedy=remedy,
        )
        return
    for part in dict.fromkeys(part._replace(place="", label="") for part in parts if part.is_segment):
        nothing = part.begin >= part.length
        if nothing or part.end > part.length + _SLACK:
            yield Finding(
                severity="error" if nothing else "warning",
                what="The segment begins beyond the end of its file."
                if nothing
                else "The segment ends beyond the end of its file: it is shorter than the table says.",
                where=f"{part.name} ({part.length:.2f} s)",
                remedy="Correct its times, or fetch the file again.",
            )


def _same(parts: Sequence[Part], place: str) -> Iterator[Finding]:
    """The same part of one recording in several places, or with several labels."""
    for group in _groups(parts):
        if not any(part.is_segment for part in group):
            continue  # files that are equal are found as such
        if len({part.place for part in group}) > 1:
            yield _in_several(group, place)
        elif len({part.label for part in group}) > 1:
            yield Finding(
                severity="error",
                what="The same part of a sound has several labels.",
                where=_listed(group),
                remedy="Keep the one that is right; several that are right are a list in one row.",
            )


def _overlapping(parts: Sequence[Part], place: str) -> Iterator[Finding]:
    """Parts of one recording in several places that share some of it, but are not the same."""
    # Of the parts that began before: the one that ends last, and the last to end in another place.
    last: list[Part] = []
    for group in sorted(_groups(parts), key=lambda group: (group[0].begin, -group[0].end)):
        for part in group:
            other = next((one for one in last if one.place != part.place), None)
            if other is None or min(other.end, part.end, part.length) - part.begin < _TOUCH:
                continue
            if part.end <= other.end + _TOUCH:  # all of it
                yield _in_several([other, part], place)
            else:
                yield Finding(
                    severity="warning",
                    what=f"Parts of one sound that overlap are in several {place}s: what they share would be "
                    "trained on and measured by.",
                    where=_listed([other, part]),
                    remedy=f"Put all parts of a recording into one {place}.",
                )
        for part in group:
            ranked = sorted([*last, part], key=lambda one: -one.end)
            last = [ranked[0], *(one for one in ranked if one.place != ranked[0].place)][:2]


def _groups(parts: Iterable[Part]) -> list[list[Part]]:
    """Put parts that are the same to a millisecond together."""
    groups: dict[Segment, list[Part]] = defaultdict(list)
    for part in parts:
        groups[round(part.begin, 3), round(min(part.end, part.length), 3)].append(part)
    return [*groups.values()]


def _in_several(parts: Sequence[Part], place: str) -> Finding:
    return Finding(
        severity="error",
        what=f"The same part of a sound is in several {place}s: it would be trained on and measured by.",
        where=_listed(parts),
        remedy="Keep one of them.",
    )


def _listed(parts: Sequence[Part]) -> str:
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(map(str, parts[:_SHOWN])) + more


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
