"""Faults in a data set's files: sounds are decoded from end to end, and images are decoded."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ignite_trainer.api.findings import Finding, Space
from ignite_trainer.support.progress import Progress
from model.audio_input import MAX_VALUES
from model.clip.image_input import read_image
from model.sounds.decoding import AudioReader, Fault, UnusableAudio
from utils.datasets.cached import CachedDataset
from utils.datasets.checks import error, warning
from utils.datasets.sources.cache import cache_folder, in_threads, smallest
from utils.datasets.sources.cells import shortlist

SHORT = 0.1
"""Sounds shorter than this fraction of the median length are too short."""

_TRIED = 8  # number of clips to decode for an estimate of the space that all clips need
_FAULTS: Mapping[Fault, str] = {
    "missing": "The file is missing.",
    "empty": "The file is empty.",
    "unreadable": "The file cannot be decoded.",
    "truncated": "The file is truncated.",
    "not finite": "The file holds NaN or infinite samples.",
    "too loud": "The samples are far too loud: their unit is not -1..1.",
}
_FETCH_AGAIN = "Download it again, or remove it from the data set."

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Sound:
    """A sound file that a data set lists.

    Attributes:
        path: path relative to the root of the data set, or absolute.
        place: group that the file is held out with, such as "fold 2".
        label: names of the file's classes.
        listed: place where the file is first listed, such as "own.csv, line 5"; "" if unknown. Not compared.
    """

    path: str
    place: str
    label: str
    listed: str = field(default="", compare=False)

    def described(self, more: str = "") -> str:
        """Name the file, where it is listed, and further details, for a finding."""
        return in_brackets(self.path, "; ", self.listed, more)

    def __str__(self) -> str:
        return in_brackets(self.path, ", ", self.place, self.label)


class Heard(NamedTuple):
    """The result of decoding a sound file from end to end.

    Attributes:
        fault: kind of fault; None if the file is usable.
        detail: details of the fault.
        rate: sample rate, in Hz.
        channels: number of channels.
        samples: number of samples per channel.
        silent: whether all samples are equal.
        digest: hash of the samples; equal channels count as one.
        note: peculiarity of a usable file, or "".
    """

    fault: Fault | None = None
    detail: str = ""
    rate: int = 0
    channels: int = 0
    samples: int = 0
    silent: bool = False
    digest: str = ""
    note: str = ""

    @property
    def seconds(self) -> float:
        """Length of a usable file."""
        return self.samples / self.rate


def listen(path: Path) -> Heard:
    """Decode a file at its own rate and examine every sample; faults are returned, not raised."""
    try:
        if not path.stat().st_size:
            return Heard("empty", "0 bytes")
        with AudioReader(path, str(path)) as sound:
            return _hear(sound)
    except FileNotFoundError:
        return Heard("missing")
    except UnusableAudio as error:
        return Heard(error.fault, error.detail)
    except (OSError, ValueError) as error:  # no permission, a folder; a name with NUL
        return Heard("unreadable", str(error))


def _hear(sound: AudioReader) -> Heard:
    whole, first_channel = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    samples, one_sound = 0, True
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for block in sound.blocks():
        samples += len(block)
        low, high = min(low, block.min()), max(high, block.max())
        one_sound = one_sound and bool((block == block[:, :1]).all())
        first_channel.update(block[:, 0].tobytes())
        if sound.channels > 1:
            whole.update(block.tobytes())
    if not samples:
        return Heard("empty", "no samples")
    digest = (first_channel if one_sound else whole).hexdigest()
    silent = bool(low == high)
    return Heard(None, "", sound.rate, sound.channels, samples, silent, digest, note=sound.note)


def listen_to_all(
    root: Path, sounds: Sequence[Sound], *, title: str, progress: bool = True
) -> dict[Sound, Heard]:
    """Examine sounds in threads, since libsndfile, numpy and hashes release the GIL."""
    heard = _in_threads(lambda sound: listen(root / sound.path), sounds, f"Checking {title}", progress)
    return dict(zip(sounds, heard, strict=True))


def broken_pictures(
    root: Path, paths: Sequence[str], *, listed: Mapping[str, str], title: str, progress: bool = True
) -> Iterator[Finding]:
    """Find images that are missing or cannot be decoded; `listed` maps paths to places in tables."""

    def look(path: str) -> str:
        try:
            read_image(root / path, name=path)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    for path, said in zip(paths, _in_threads(look, paths, f"Looking at {title}", progress), strict=True):
        if said:
            more = said.removeprefix(f"{path}: ").rstrip(".")
            where = in_brackets(path, "; ", listed.get(path, ""), more)
            yield error("The image cannot be decoded.", where, _FETCH_AGAIN)


def sound_findings(data: CachedDataset[Any], heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Find sounds that are unusable or suspicious, or whose number of channels differs from the others'."""
    for sound, result in heard.items():
        if result.fault is not None:
            yield error(_FAULTS[result.fault], sound.described(result.detail), _FETCH_AGAIN)
    usable = usable_sounds(heard)
    if usable:
        yield from suspicious(data.sample_rate, usable)
        yield from _channels(data.mono, usable)


def usable_sounds(heard: Mapping[Sound, Heard]) -> dict[Sound, Heard]:
    """Return the sounds without a fault."""
    return {sound: result for sound, result in heard.items() if result.fault is None}


def suspicious(sample_rate: int, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Find usable sounds that have a low sample rate or a wrong header, or are silent or very short."""
    usual = median(result.seconds for result in heard.values())
    for rate in sorted({result.rate for result in heard.values() if result.rate < sample_rate}):
        first, *others = (sound for sound, result in heard.items() if result.rate == rate)
        yield warning(
            f"The sample rate is below the sample_rate of {sample_rate} Hz, so high frequencies are missing.",
            first.described(f"{rate} Hz" + f", with {len(others)} more" * bool(others)),
        )
    for sound, result in heard.items():
        if result.note:
            yield warning(
                "The header of the file does not agree with its samples.",
                sound.described(result.note),
                "Listen to its end; leave it if the sound ends there.",
            )
        if result.silent:
            yield warning(
                "All samples are equal: silence.",
                sound.described(),
                "Listen to it; remove it from the data set unless silence is intended.",
            )
        if result.seconds < SHORT * usual:
            yield warning(
                f"The sound is much shorter than the median of {usual:.2f} s.",
                sound.described(f"{result.seconds:.3f} s"),
                "Listen to it; padded to the length of the others, it is mostly silence.",
            )


def too_long(sample_rate: int, mono: bool | None, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Find sounds that are too long for `read_audio`."""
    for sound, result in heard.items():
        decoded = result.samples * result.channels
        resampled = result.samples * (1 if mono else result.channels) * sample_rate // result.rate
        if max(decoded, resampled) > MAX_VALUES:
            yield error(
                f"The sound is too long; the limit is {MAX_VALUES:,} values over all channels.",
                sound.described(f"{result.seconds / 3600:.1f} h"),
                "Cut it into clips, or list its parts by start and end in a Table.",
            )


def _channels(mono: bool | None, heard: Mapping[Sound, Heard]) -> Iterator[Finding]:
    """Find sounds whose number of channels differs from the most common number."""
    if mono:
        return
    least = 1 if mono is None else 2
    count_of = {sound: max(result.channels, least) for sound, result in heard.items()}
    [(usual, _)] = Counter(count_of.values()).most_common(1)
    channels = f"{usual} channel{'s' * (usual > 1)}"
    what = f"Most clips have {channels}; with mono {mono}, others cannot join their batches."
    remedy = "Set Dataset.args.mono to true" + ", or to false for two channels" * (mono is None) + "."
    for sound, count in count_of.items():
        if count != usual:
            yield error(what, sound.described(str(count)), remedy)


def equal(heard: Mapping[Sound, Heard], *, place: str = "fold") -> Iterator[Finding]:
    """Find files with identical samples, except silence; `place` is the group that is held out together."""
    same = defaultdict(list)
    for sound, result in heard.items():
        if not result.silent:
            same[result.digest].append(sound)
    for sounds in same.values():
        where = shortlist(sounds)
        if len({sound.place for sound in sounds}) > 1:
            yield error(f"The same sound {leaks(place)}.", where, "Keep one of them.")
        elif len({sound.label for sound in sounds}) > 1:
            yield error("The same sound has several labels.", where, "Keep the right one.")
        elif len(sounds) > 1:
            yield warning(
                f"The same sound is in one {place} several times, and counts as often.",
                where,
                "Keep one of them, unless this is intended.",
            )


def leaks(place: str) -> str:
    """Say that something is in several folds or splits."""
    return f"is in several {place}s, so it would be in both training and test data"


def estimate_space(
    data: CachedDataset[Any], heard: Mapping[Sound, Heard], *, seconds: float, cache: str | Path | None
) -> tuple[Space, list[Finding]]:
    """Estimate the space that decoded clips of this total length need, and find clips that `decode` refuses.

    Only a few clips are decoded.
    """
    size_bytes, decoded_seconds, findings = 0, 0.0, list[Finding]()
    for sound in list(heard)[:: len(heard) // _TRIED + 1]:
        try:
            size_bytes += smallest(data.decode(data.root / sound.path)).nbytes
            decoded_seconds += heard[sound].seconds
        except Exception as failure:  # a decoding rule may raise anything
            where = sound.described(f"{type(failure).__name__}: {failure}")
            findings.append(error(_FAULTS["unreadable"], where, _FETCH_AGAIN))
    needed = round(size_bytes / decoded_seconds * seconds) if decoded_seconds else 0
    return Space(folder=cache_folder(cache), size_bytes=needed, purpose="decoded clips"), findings


def in_brackets(name: str, separator: str, *details: str) -> str:
    """Append details to a name: "a.wav (own.csv, line 5; 0.001 s)"."""
    said = separator.join(filter(None, details))
    return f"{name} ({said})" if said else name


def _in_threads(look: Callable[[S], T], items: Sequence[S], title: str, progress: bool) -> list[T]:
    results = in_threads(look, items)
    return list(Progress(results, desc=title, total=len(items), unit="files", shown=progress))
