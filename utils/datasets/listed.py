"""Data sets that are lists of samples, any of which may lack a sound, an image or a text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ignite_trainer.api.findings import format_findings
from model.audio_input import Waveform, read_audio
from model.sounds.decoding import Segment
from utils.datasets.cached import RESAMPLED, CachedDataset
from utils.datasets.checks.names import name_findings
from utils.datasets.checks.segments import misplaced_segments
from utils.datasets.sample import (
    TEST,
    TRAIN,
    VALIDATION,
    DescribedSample,
    Entries,
    Entry,
    Listing,
    Sample,
    SampleFiles,
    text_of,
)
from utils.datasets.sources.cache import ClipCache
from utils.datasets.sources.exclusion import Exclude, Exclusion
from utils.datasets.sources.frames import Frames

MOST_CACHED = 10_000
"""Maximum number of clips that are cached by default: 9 GB for mono clips of 10 s."""

logger = logging.getLogger(__name__)

FramesWanted = Literal["central", "all"]


class ListedDataset(CachedDataset[Sample | DescribedSample]):
    """One split of a list of samples; if any sample of either split has a text, all are `DescribedSample`s.

    The sounds of both splits are decoded once into the cache; if there are too many, they are decoded at each
    access instead. Images are always decoded at each access. The other arguments are `CachedDataset`'s.

    Args:
        root: folder that paths are relative to.
        entries: all samples in the data set.
        held_out: mask of the held-out entries, bool `[entries]`; None if both splits are the whole data set.
        validation: mask of the entries that choose the best epoch, bool `[entries]`, none of them held out;
            None to train on all entries that are not held out.
        train: split to use: True for the samples that are neither held out nor in the validation split, False
            for the held-out samples.
        lines: line of each entry in `source`, int64 `[entries]`; None if unknown.
        splits: official split of each entry, a `sample.TRAIN`, `VALIDATION` or `TEST`, `[entries]`; None if
            there are no official splits.
        class_names: class names of all entries, in the order of the scores.
        frames: images of a sample that has several: "central" for the middle image, "all" for `Frames`,
            from which a transform of the field "image" chooses and decodes an image.
        cache: folder for decoded audio; None for the default folder and at most `MOST_CACHED` clips; False
            for no cache.
        progress: whether to show a progress bar while decoding, or lines without a terminal.
        exclude: recordings to leave out of training, as files of identifiers or names of known evaluation
            sets (see `sources/exclusion.py`).

    Attributes:
        entries: entries of this split.
        validation: data set of the validation split; None if there is none, or if this is not the training
            split.
        class_names: class names, as passed to the constructor.
        digest: hash of the entries.
        skipped_notice: message that `prepare` logs about skipped samples, or None.
        ignored_notice: message that `prepare` logs about ignored files, or None.
        absent: listed files that are missing, with their lines, if the data set skips missing files.
        unused_columns: names of the table's unused columns, with suggestions for mistyped names.
        lines: line of each entry in `source`, int64; empty if unknown.
        source: name of the table.
        folds, held_out: numbers of all folds, and numbers of the held-out folds.
        read_batch: method that reads whole batches; only present if all samples are sounds in the cache.

    Raises:
        ValueError: An argument is invalid. When a sample is accessed: its sound cannot be decoded, or most
            segments of the split lie beyond the ends of their files.
    """

    title: ClassVar[str] = "Table"
    decoding: ClassVar[str] = RESAMPLED
    segments_remedy: ClassVar[str] = "Correct their times."
    """Advice if segments lie beyond the ends of their files, which may already be cut into segments."""
    folds: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    skipped_notice: str | None = None
    ignored_notice: str | None = None
    absent: tuple[str, ...] = ()
    unused_columns: str = ""
    lines: Sequence[int] | NDArray[np.int64] = ()
    source: str = ""
    validation: ListedDataset | None = None
    validation_folds: tuple[int, ...] = ()
    read_batch: Callable[[Sequence[int]], Sample]

    def __init__(
        self,
        root: Path,
        entries: Entries,
        held_out: NDArray[np.bool_] | None,
        *,
        train: bool,
        validation: NDArray[np.bool_] | None = None,
        lines: NDArray[np.int64] | None = None,
        splits: NDArray[np.str_] | None = None,
        class_names: Sequence[str],
        sample_rate: int,
        mono: bool | None,
        frames: FramesWanted = "central",
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        super().__init__(sample_rate, train=train, mono=mono)
        check_frames(frames)
        if not isinstance(cache, str | Path | bool | None):
            raise ValueError(f"cache is {cache!r}; a folder, true, false or null is expected.")
        self.root = root
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)
        self.class_names = list(class_names)
        self.described = entries.have_texts
        self._frames = frames
        self._all_splits = splits
        self._doubtful_names = [*name_findings(class_names)] if train else []
        if (len(entries) <= MOST_CACHED) if cache is None else cache is not False:
            self._cache_clips(entries, folder=None if isinstance(cache, bool) else cache, progress=progress)
        mask = np.ones(len(entries), np.bool_) if held_out is None else held_out != train
        if train and validation is not None:
            self.validation = self._part(entries, validation, lines)
            mask &= ~validation
        if exclude is not None:
            exclusion, sources = Exclusion(exclude), list(entries.sources)
            if train:
                chosen = np.flatnonzero(mask)
                mask[chosen] = self._leave_out(exclusion.apply([sources[row] for row in chosen]))
        self._choose(entries, mask, lines)

    def is_to_be_decoded(self) -> bool:
        """Return whether `prepare` has clips to decode."""
        return self._cache is not None and not self._cache.is_complete()

    def prepare(self, *, skip_unreadable: bool = False) -> None:
        """Log skipped samples and files, and decode all clips that are not in the cache, if there is one.

        Raises:
            ValueError: Clips cannot be decoded (the message names them), or most segments lie beyond the ends
                of their files.
            OSError: The cache folder cannot be used.
        """
        for message in filter(None, (self.skipped_notice, self.ignored_notice)):
            logger.warning("%s", message)
        for message in format_findings(self._doubtful_names):
            logger.warning("%s: %s", self.title, message)
        self.skipped_notice = None
        self.ignored_notice = None
        self._doubtful_names = []
        self._refuse_misplaced_segments()
        super().prepare(skip_unreadable=skip_unreadable)

    def decode(self, path: Path, segment: Segment | None = None) -> Waveform:
        """Decode a clip to float32 `[C, T]` in 16-bit units; thread-safe."""
        return read_audio(path, self.sample_rate, mono=self.mono, segment=segment)

    def record(self, index: int) -> dict[str, str | int]:
        """Return the name of a sample and its fold or official split, for predictions and features."""
        entry = self.entries[index]
        place: dict[str, str | int] = {} if entry.fold is None else {"fold": entry.fold}
        if self._all_splits is not None:
            place["split"] = str(self._splits[index])
        return {"clip": entry.name, **place}

    def listing(self, index: int) -> Listing:
        """Return the listed facts about a sample, and the place where it is listed."""
        entry = self.entries[index]
        place = f"{self.source}, line {self.lines[index]}: {entry.name}" if len(self.lines) else entry.name
        return Listing(place, entry.labels, entry.captions, audio=entry.audio is not None)

    def sources(self) -> Iterator[str | None]:
        """Return the recording of each sample, None if unknown."""
        return self.entries.sources

    def files(self, index: int) -> SampleFiles | None:
        """Return the files of a sample; None if its sound is only part of a file."""
        entry = self.entries[index]
        if entry.segment is not None:
            return None
        audio = None if entry.audio is None else self.root / entry.audio
        images = tuple(self.root / path for path in entry.images)
        return SampleFiles(audio, images, labels=list(entry.labels), captions=entry.captions)

    @property
    def official_splits(self) -> tuple[str, ...]:
        """Names of the official splits that samples of this split belong to."""
        there = () if self._all_splits is None else set(self._splits.tolist())
        return tuple(name for name in (TRAIN, VALIDATION, TEST) if name in there)

    def __len__(self) -> int:
        return len(self.entries)

    def _part(
        self, entries: Entries, mask: NDArray[np.bool_], lines: NDArray[np.int64] | None
    ) -> ListedDataset:
        """Return a copy that uses other entries and reports nothing about the whole data set."""
        part = copy(self)
        part._doubtful_names = []
        part._choose(entries, mask, lines)
        return part

    def _choose(self, entries: Entries, mask: NDArray[np.bool_], lines: NDArray[np.int64] | None) -> None:
        """Use the entries in the mask."""
        self.entries = entries if mask.all() else entries.select(mask)
        self.digest = self.entries.digest
        if lines is not None:
            self.lines = lines[mask]
        if self._all_splits is not None:
            self._splits = self._all_splits[mask]
        if self._cache is not None:
            self._positions = self._all_positions[mask]
            if not self.described and all(entry.audio and not entry.images for entry in self.entries):
                self.read_batch = self._read_batch

    def _cache_clips(self, entries: Entries, *, folder: str | Path | None, progress: bool) -> None:
        """Assign each clip in the whole data set a position in the cache; equal clips share a position."""
        positions: dict[tuple[str, Segment | None], int] = {}
        of_row = np.full(len(entries), -1)
        for row, entry in enumerate(entries):
            if entry.audio is not None:
                of_row[row] = positions.setdefault((entry.audio, entry.segment), len(positions))
        self._all_positions: NDArray[np.int64] = of_row
        segments = [segment for _, segment in positions]
        if positions:
            self._cache = self._make_cache(
                [path for path, _ in positions],
                cache=folder,
                progress=progress,
                segments=segments if any(segments) else None,
            )

    def _sample(self, index: int, *, cached: bool) -> Sample | DescribedSample:
        entry = self.entries[index]
        audio = None if entry.audio is None else self._audio(index, entry, cached=cached)
        image, labels = self._image(entry), list(entry.labels)
        if self.described:
            return DescribedSample(audio, image, labels, text_of(entry.captions))
        return Sample(audio, image, labels)

    def _audio(self, index: int, entry: Entry, *, cached: bool) -> Waveform:
        if cached:
            return self._opened()[int(self._positions[index])]
        if entry.segment is not None:
            self._refuse_misplaced_segments()
        return self.decode(self.root / str(entry.audio), entry.segment)

    def _image(self, entry: Entry) -> Tensor | Frames | None:
        if not entry.images:
            return None
        frames = Frames(tuple(str(self.root / path) for path in entry.images))
        return frames if self._frames == "all" else frames[frames.central]

    def _read_batch(self, indices: Sequence[int]) -> Sample:
        audio = self._opened().read_batch(self._positions[list(indices)].tolist())
        return Sample(audio, None, [list(self.entries[index].labels) for index in indices])

    def _opened(self) -> ClipCache:
        assert self._cache is not None
        if not self._cache.is_open:
            self.prepare()
        return self._cache

    def _refuse_misplaced_segments(self) -> None:
        if self._misplaced_segments:
            raise ValueError(f"{self._misplaced_segments} {self.segments_remedy}")

    @cached_property
    def _misplaced_segments(self) -> str:
        return misplaced_segments(self.root, self.entries)


def check_frames(frames: object) -> None:
    """Raise ValueError unless `frames` is one of `FramesWanted`."""
    if frames not in get_args(FramesWanted):
        raise ValueError(f'frames is {frames!r}; "central" or "all" is expected.')
