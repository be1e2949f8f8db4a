"""Data sets whose samples are listed, with sounds, pictures and texts of which any may be absent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ignite_trainer.api.findings import NAMED, Inspection, Severity
from model.audio_input import Waveform, read_audio
from model.sounds.decoding import HIGHEST_RATE, Segment
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.checks.names import name_findings
from utils.datasets.checks.segments import times_of_sources
from utils.datasets.folds import RESAMPLED, check_flag
from utils.datasets.sample import DescribedSample, Listing, Sample, SampleFiles
from utils.datasets.sources.cache import DecodedClips, OpenDecoded, is_decoded, plan_decoding
from utils.datasets.sources.entries import Entries, Entry
from utils.datasets.sources.frames import Frames

MOST_CACHED = 10_000
"""Clips that are decoded once and kept, where nothing is said; 10 s each in mono are 9 GB."""

logger = logging.getLogger(__name__)

FramesWanted = Literal["central", "all"]


class ListedDataset(Dataset[Sample | DescribedSample]):
    """Samples by a list of entries: one split of them.

    Sounds are decoded once into the cache that `utils.datasets.FoldDataset` uses, those of both splits
    together, or, where there are many, whenever they are asked for. Pictures are always decoded then.

    Args:
        root: folder that paths are relative to.
        entries: all of the data set.
        held_out: which of them are held out, bool `[entries]`; None: both splits are all.
        train: True: what is not held out; False: what is.
        class_names: of all entries, in the order of scores.
        sample_rate: of the samples, Hz.
        mono: True averages the channels, False doubles a single channel into two, None keeps the file's.
        described: whether samples have a text besides their labels: `(audio, image, labels, text)`.
        frames: of a sample with several pictures "central": the one in the middle; "all": `Frames`, of which
            a transform of the field "image" chooses and decodes one.
        cache: folder for decoded audio; None: the usual one, where there are at most `MOST_CACHED` clips;
            False: no cache.
        progress: show a bar while decoding, or lines where there is no terminal.

    Attributes:
        entries: those of this split.
        class_names: as given.
        digest: another for other entries.
        notice: what `prepare` says of samples that are left out; None: nothing.
        passed_over: what `prepare` says of files that are not read; None: nothing.
        absent: files that are listed and not there, where the data set does without; with their lines.
        unused_columns: names of the table's columns that are not used; those that may be mistyped with a
            suggestion.
        lines: of each entry the line of `source`, int64; empty if it is not known.
        source: name of the table.
        folds, held_out: numbers of all folds, and of those held out.
        read_batch: gives whole batches; there only where all is sound, and in the cache.

    Raises:
        ValueError: an argument is wrong; of a sample that is asked for: its sound does not decode, or most
            segments of the split lie beyond the ends of their files.
    """

    affects: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("root", "fold"), "run"),
        **dict.fromkeys(("cache", "progress"), "handling"),
    }
    title: ClassVar[str] = "Table"
    """What it is called in messages."""
    decoding: ClassVar[str] = RESAMPLED
    to_take_whole: ClassVar[str] = "Correct their times."
    """Advice where segments lie beyond the ends of their files, which may have been cut already."""
    folds: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    notice: str | None = None
    passed_over: str | None = None
    absent: tuple[str, ...] = ()
    unused_columns: str = ""
    lines: Sequence[int] | NDArray[np.int64] = ()
    source: str = ""
    read_batch: Callable[[Sequence[int]], Sample]

    def __init__(
        self,
        root: Path,
        entries: Entries,
        held_out: NDArray[np.bool_] | None,
        *,
        train: bool,
        class_names: Sequence[str],
        sample_rate: int,
        mono: bool | None,
        described: bool,
        frames: FramesWanted = "central",
        cache: str | Path | bool | None = None,
        progress: bool = True,
    ) -> None:
        _check(sample_rate=sample_rate, train=train, mono=mono, frames=frames, cache=cache)
        self.root, self.sample_rate, self.mono = root, sample_rate, mono
        self.class_names = list(class_names)
        self.described, self._frames = described, frames
        self._doubtful_names = [*name_findings(class_names)] if train else []
        all_rows = np.arange(len(entries))
        rows = all_rows if held_out is None else all_rows[held_out != train]
        self.entries = entries if held_out is None else entries.chosen(rows.tolist())
        self.digest = self.entries.digest
        self._decoded: DecodedClips | None = None
        self._load_decoded: OpenDecoded | None = None
        self._is_decoded: Callable[[], bool] | None = None
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        if _is_cached(cache, len(entries)):
            folder = None if isinstance(cache, bool) else cache
            self._plan_decoding(entries, rows, cache=folder, progress=progress)
            if not described and all(entry.audio and not entry.images for entry in self.entries):
                self.read_batch = self._read_batch

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Look for faults in tables and files, as `--check` asks for; the arguments are the constructor's."""
        return cls._inspect(args)

    @classmethod
    def _inspect(cls, args: Mapping[str, Any], *, absent: Severity = "error") -> Inspection:
        return inspect_listed(
            lambda train: cls(**{**args, "train": train}),
            cache=args.get("cache"),
            progress=bool(args.get("progress", True)),
            absent=absent,
        )

    def is_to_be_decoded(self) -> bool:
        """Whether `prepare` has clips to decode."""
        return self._is_decoded is not None and not self._is_decoded()

    def prepare(self, *, skip_unreadable: bool = False) -> None:
        """Say what is left out, and decode every clip unless that was done, where decoded clips are kept.

        Args:
            skip_unreadable: go on where clips do not decode; such a sample raises an OSError when it is asked
                for.

        Raises:
            ValueError: clips do not decode, and the message names them; or most segments lie beyond the ends
                of their files.
            OSError: the cache folder cannot be used.
        """
        for said in filter(None, (self.notice, self.passed_over)):
            logger.warning("%s", said)
        by_kind: dict[tuple[str, str], list[str]] = {}
        for one in self._doubtful_names:
            by_kind.setdefault((one.what, one.remedy), []).append(one.where)
        for (what, remedy), names in by_kind.items():
            more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
            logger.warning("%s: %s (%s%s) %s", self.title, what, "; ".join(names[:NAMED]), more, remedy)
        self.notice, self.passed_over, self._doubtful_names = None, None, []
        self._refuse_times_of_sources()
        if self._load_decoded is not None and self._decoded is None:
            self._decoded = self._load_decoded(skip_unreadable=skip_unreadable)

    def decode(self, path: Path, segment: Segment | None = None) -> Waveform:
        """Decode a clip: float32 `[C, T]`, 16-bit units. Runs in several threads at once."""
        return read_audio(path, self.sample_rate, mono=self.mono, segment=segment)

    def record(self, index: int) -> dict[str, str | int]:
        """Say which sample that is, and in which fold, as predictions and features name it."""
        entry = self.entries[index]
        return {"clip": entry.name, **({} if entry.fold is None else {"fold": entry.fold})}

    def listing(self, index: int) -> Listing:
        """Say what is listed of a sample, and where."""
        entry = self.entries[index]
        place = f"{self.source}, line {self.lines[index]}: {entry.name}" if len(self.lines) else entry.name
        return Listing(place, entry.labels, entry.text, audio=entry.audio is not None)

    def look_at(self, index: int) -> Sample | DescribedSample:
        """Give a sample without `prepare`: its clip alone is decoded."""
        entry = self.entries[index]
        if self._decoded is not None or entry.audio is None:
            return self[index]
        return self._sample(entry, self._part_decoded(entry.audio, entry.segment))

    def files(self, index: int) -> SampleFiles | None:
        """Say which files a sample is decoded from; None for a part of a file."""
        entry = self.entries[index]
        if entry.segment is not None:
            return None
        audio = None if entry.audio is None else self.root / entry.audio
        images = tuple(self.root / path for path in entry.images)
        return SampleFiles(audio, images, labels=list(entry.labels), text=entry.text)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample | DescribedSample:
        entry = self.entries[index]
        return self._sample(entry, self._audio(index, entry))

    def _sample(self, entry: Entry, audio: Waveform | None) -> Sample | DescribedSample:
        image, labels = self._image(entry), list(entry.labels)
        if self.described:
            return DescribedSample(audio, image, labels, entry.text)
        return Sample(audio, image, labels)

    def __iter__(self) -> Iterator[Sample | DescribedSample]:
        return (self[index] for index in range(len(self)))

    @property
    def cache_settings(self) -> dict[str, Any]:
        """All that decides what `decode` makes of a file, as JSON types."""
        return {"decoding": self.decoding, "sample_rate": self.sample_rate, "mono": self.mono}

    def _audio(self, index: int, entry: Entry) -> Waveform | None:
        if entry.audio is None:
            return None
        if self._load_decoded is None:
            return self._part_decoded(entry.audio, entry.segment)
        return self._clips_decoded()[self._places[index]]

    def _part_decoded(self, path: str, segment: Segment | None) -> Waveform:
        if segment is not None:
            self._refuse_times_of_sources()
        return self.decode(self.root / path, segment)

    def _refuse_times_of_sources(self) -> None:
        if self._times_of_sources:
            raise ValueError(f"{self._times_of_sources} {self.to_take_whole}")

    @cached_property
    def _times_of_sources(self) -> str:
        return times_of_sources(self.root, self.entries)

    def _image(self, entry: Entry) -> Tensor | Frames | None:
        if not entry.images:
            return None
        frames = Frames(tuple(str(self.root / path) for path in entry.images))
        return frames if self._frames == "all" else frames[frames.central]

    def _read_batch(self, indices: Sequence[int]) -> Sample:
        audio = self._clips_decoded().read_batch(self._places[list(indices)].tolist())
        return Sample(audio, None, [list(self.entries[index].labels) for index in indices])

    def _clips_decoded(self) -> DecodedClips:
        if self._decoded is None:
            self.prepare()
        assert self._decoded is not None
        return self._decoded

    def _plan_decoding(
        self, entries: Entries, rows: NDArray[np.int64], *, cache: str | Path | None, progress: bool
    ) -> None:
        """Give every clip of the whole data set its place in the cache, one where it is listed twice."""
        places: dict[tuple[str, Segment | None], int] = {}
        place_of_row = np.full(len(entries), -1)
        for row, entry in enumerate(entries):
            if entry.audio is not None:
                place_of_row[row] = places.setdefault((entry.audio, entry.segment), len(places))
        if not places:
            return
        paths, segments = [path for path, _ in places], [segment for _, segment in places]
        self._places = place_of_row[rows]
        clips: dict[str, Any] = {
            "name": type(self).__name__,
            "settings": self.cache_settings,
            "cache": cache,
            "segments": segments if any(segments) else None,
        }
        self._load_decoded = plan_decoding(self.root, paths, self.decode, **clips, progress=progress)
        self._is_decoded = partial(is_decoded, self.root, paths, **clips)


def check_frames(frames: object) -> None:
    """Raise a ValueError unless `frames` is one of `FramesWanted`."""
    if frames not in get_args(FramesWanted):
        raise ValueError(f'frames is {frames!r}; "central" or "all" is expected.')


def _is_cached(cache: str | Path | bool | None, clips: int) -> bool:
    return clips <= MOST_CACHED if cache is None else cache is not False


def _check(*, sample_rate: object, train: object, mono: object, frames: object, cache: object) -> None:
    if type(sample_rate) is not int or not 0 < sample_rate <= HIGHEST_RATE:
        raise ValueError(f"sample_rate is {sample_rate!r}; 1 to {HIGHEST_RATE}, in Hz, is expected.")
    check_flag("train", train)
    if mono is not None:
        check_flag("mono", mono)
    check_frames(frames)
    if not isinstance(cache, str | Path | bool | None):
        raise ValueError(f"cache is {cache!r}; a folder, true, false or null is expected.")
