"""What is wrong with files of a data set: sounds listened to from end to end, pictures decoded."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol, TypeVar

from ignite_trainer.api.findings import Finding
from ignite_trainer.support.progress import Progress
from model.audio_input import MOST_VALUES, Waveform
from model.clip.image_input import read_image
from model.sounds.decoding import Fault
from utils.datasets.sources.cache import smallest
from utils.datasets.sources.hearing import Heard, listen

SHORT = 0.1
"""Of the median length: what is below it is too short."""

_TRIED = 8  # clips decoded to see how much room all of them need
_SHOWN = 4  # of the clips that are equal
_FAULTS: Mapping[Fault, str] = {
    "missing": "The file is not there.",
    "empty": "The file is empty.",
    "unreadable": "The file cannot be decoded.",
    "truncated": "The file is truncated.",
    "not finite": "The file holds NaN or infinite samples.",
    "too loud": "The samples are in another unit than -1..1: far too loud.",
}
_FETCH_AGAIN = "Fetch it again, or take it out of the data set."

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Sound:
    """A file of sound as a data set lists it; where it is listed makes it no other.

    Attributes:
        path: relative to the root of the data set, or absolute.
        place: of what is held out together, such as "fold 2".
        label: names of its classes.
        listed: where it is listed first, such as "own.csv, line 5"; "": not known.
    """

    path: str
    place: str
    label: str
    listed: str = field(default="", compare=False)

    def said(self, more: str = "") -> str:
        """Name the file for a finding, where it is listed, and what differs from case to case."""
        return described(self.path, self.listed, more)


class Decoding(Protocol):
    """What is asked of a data set of sounds."""

    root: Path
    sample_rate: int
    mono: bool | None

    def decode(self, path: Path) -> Waveform:
        """Decode one clip."""


def listen_to_all(
    root: Path, sounds: Sequence[Sound], *, title: str, progress: bool = True
) -> dict[Sound, Heard]:
    """Listen in threads, as libsndfile, numpy and hashes release the GIL."""
    heard = _in_threads(lambda sound: listen(root / sound.path), sounds, f"Checking {title}", progress)
    return dict(zip(sounds, heard, strict=True))


def broken_pictures(
    root: Path, paths: Sequence[str], *, listed: Mapping[str, str], title: str, progress: bool = True
) -> Iterator[Finding]:
    """Pictures that are not there or do not decode; `listed` says where, by path."""

    def look(path: str) -> str:
        try:
            read_image(root / path, name=path)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    for path, said in zip(paths, _in_threads(look, paths, f"Looking at {title}", progress), strict=True):
        if said:
            yield Finding(
                severity="error",
                what="The picture cannot be decoded.",
                where=described(path, listed.get(path, ""), said.removeprefix(f"{path}: ").rstrip(".")),
                remedy=_FETCH_AGAIN,
            )


def broken(heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Sounds that cannot be used."""
    for sound, one in heard.items():
        if one.fault is not None:
            yield Finding(
                severity="error",
                what=_FAULTS[one.fault],
                where=sound.said(one.detail),
                remedy=_FETCH_AGAIN,
            )


def suspicious(sample_rate: int, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Sounds that can be used, and yet."""
    if not heard:
        return
    usual = median(one.samples / one.rate for one in heard.values())
    for rate in sorted({one.rate for one in heard.values() if one.rate < sample_rate}):
        sounds = [sound for sound, one in heard.items() if one.rate == rate]
        yield Finding(
            severity="warning",
            what=f"Sounds are resampled to the sample_rate of {sample_rate} Hz; frequencies above what their "
            "own rate holds stay empty.",
            where=sounds[0].said(f"{rate} Hz" + f", with {len(sounds) - 1} more" * (len(sounds) > 1)),
        )
    for sound, one in heard.items():
        if one.note:
            yield Finding(
                severity="warning",
                what="The header of the file does not agree with its samples.",
                where=sound.said(one.note),
                remedy="Listen to its end; nothing, if that is where the sound ends.",
            )
        if one.silent:
            yield Finding(
                severity="warning",
                what="All samples are equal: silence.",
                where=sound.said(),
                remedy="Listen to it; take it out of the data set if it is not meant.",
            )
        if one.samples / one.rate < SHORT * usual:
            yield Finding(
                severity="warning",
                what=f"Much shorter than the others, half of which last {usual:.2f} s or more.",
                where=sound.said(f"{one.samples / one.rate:.3f} s"),
                remedy="Listen to it; padded to the others' length, it is mostly silence.",
            )


def too_long(sample_rate: int, mono: bool | None, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Sounds of which more is wanted at once than is read."""
    for sound, one in heard.items():
        decoded = one.samples * one.channels
        resampled = one.samples * (1 if mono else one.channels) * sample_rate // one.rate
        if max(decoded, resampled) > MOST_VALUES:
            yield Finding(
                severity="error",
                what=f"The sound is too long: at most {MOST_VALUES:,} values of all channels are read.",
                where=sound.said(f"{one.samples / one.rate / 3600:.1f} h"),
                remedy="Cut it into clips, or list its parts by start and end in a Table.",
            )


def channels(mono: bool | None, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Sounds that cannot stand in one batch with most others."""
    if mono:
        return
    doubled = mono is False
    count_of = {sound: max(one.channels, 2 if doubled else 1) for sound, one in heard.items()}
    usual = Counter(count_of.values()).most_common(1)[0][0] if count_of else 0
    for sound, count in count_of.items():
        if count != usual:
            yield Finding(
                severity="error",
                what=f"Most clips have {usual} channels, others not, and mono is {mono}: they cannot "
                "be in one batch.",
                where=sound.said(str(count)),
                remedy="Set Dataset.args.mono to true"
                + ("." if doubled else ", or to false for two channels of each."),
            )


def equal(heard: Mapping[Sound, Heard], *, place: str = "fold") -> Iterator[Finding]:
    """Files with the same samples, in several places or one; silence tells nothing of where it comes from."""
    same = defaultdict(list)
    for sound, one in heard.items():
        if not one.silent:
            same[one.digest].append(sound)
    for sounds in same.values():
        if len(sounds) == 1:
            continue
        more = f" and {len(sounds) - _SHOWN} more" if len(sounds) > _SHOWN else ""
        where = ", ".join(map(_described, sounds[:_SHOWN])) + more
        if len({sound.place for sound in sounds}) > 1:
            yield Finding(
                severity="error",
                what=f"The same sound is in several {place}s: it would be trained on and measured by.",
                where=where,
                remedy="Keep one of them.",
            )
        elif len({sound.label for sound in sounds}) > 1:
            yield Finding(
                severity="error",
                what="The same sound has several labels.",
                where=where,
                remedy="Keep the one that is right.",
            )
        else:
            yield Finding(
                severity="warning",
                what=f"The same sound is several times in one {place}: it counts as often.",
                where=where,
                remedy="Keep one of them, unless that is meant.",
            )


def decoded_bytes(dataset: Decoding, heard: Mapping[Sound, Heard]) -> tuple[float, list[Finding]]:
    """The room that a decoded second takes, from a few clips; those of these few that do not decode."""
    size, seconds, findings = 0, 0.0, list[Finding]()
    for sound in list(heard)[:: len(heard) // _TRIED + 1]:
        try:
            size += smallest(dataset.decode(dataset.root / sound.path)).nbytes
            seconds += heard[sound].samples / heard[sound].rate
        except Exception as error:  # a decoding rule may raise anything
            what = _FAULTS["unreadable"]
            where = sound.said(f"{type(error).__name__}: {error}")
            findings.append(Finding(severity="error", what=what, where=where, remedy=_FETCH_AGAIN))
    return size / seconds if seconds else 0.0, findings


def described(path: str, listed: str, more: str) -> str:
    """Name a file, where it is listed, and what else is said of it: "a.wav (own.csv, line 5; 0.001 s)"."""
    said = "; ".join(filter(None, (listed, more)))
    return f"{path} ({said})" if said else path


def _described(sound: Sound) -> str:
    said = ", ".join(filter(None, (sound.place, sound.label)))
    return f"{sound.path} ({said})" if said else sound.path


def _in_threads(look: Callable[[S], T], items: Sequence[S], title: str, progress: bool) -> list[T]:
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return list(
            Progress(pool.map(look, items), desc=title, total=len(items), unit="files", shown=progress)
        )
