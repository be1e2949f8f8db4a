"""Types of data sets: listed clips and entries, and the samples that are returned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.batch import Alternatives
from model.sounds.decoding import Segment
from model.storage.walking import shown

TRAIN, VALIDATION, TEST = "train", "validation", "test"
"""Names of official splits in records, features and probes."""


class Clip(NamedTuple):
    """A clip in the table of a data set with folds.

    Attributes:
        path: path of the audio file, relative to the data set's root, with `/` on every system.
        fold: number of the clip's fold.
        target: class number in the table; class numbers may have gaps (ESC-10 has 0, 1, 10, ..., 41).
        label: class name, as a reader would write it.
        source: recording that the clip was cut from, such as "freesound:100032"; None if unknown.
    """

    path: str
    fold: int
    target: int
    label: str
    source: str | None = None


class Sample(NamedTuple):
    """A sample as models take it: `(audio, image, labels)`.

    Attributes:
        audio: audio, float32 numpy `[C, T]` in 16-bit units (about -32768..32767), or the result of
            `transform_audio`.
        image: image, uint8 tensor `[3, H, W]`, or `sources.frames.Frames`; None in a data set of sounds.
        labels: labels, `list[str]`, or the result of `target_transform`.
    """

    audio: Any
    image: Any
    labels: Any


class DescribedSample(NamedTuple):
    """A sample with a caption or other text; `sample[:3]` are the fields of a `Sample`, or None.

    `text` is a caption, `Alternatives` if there are several captions (training draws one for each epoch), or
    None.
    """

    audio: Any
    image: Any
    labels: Any
    text: Any


def text_of(captions: Sequence[str]) -> str | Alternatives | None:
    """Return the `text` of a `DescribedSample` with these captions."""
    if len(captions) > 1:
        return Alternatives(captions)
    return captions[0] if captions else None


class Listing(NamedTuple):
    """Facts about a sample that a data set knows without reading the sample's files.

    Before a run, tasks check all samples with a data set's method `listing(index)`, or representative samples
    with its method `listings()`. `place` is where the sample is listed, such as "own.csv, line 3: dog.wav";
    `audio` says whether it has a sound.
    """

    place: str
    labels: Sequence[str] = ()
    captions: Sequence[str] = ()
    audio: bool = True


class SampleFiles(NamedTuple):
    """The files of a sample, for code that copies files instead of decoding them.

    A data set's method `files(index)` returns this, or None if reading the files with `model.audio_input` and
    `model.clip.image_input` would not reproduce the sample.
    """

    audio: Path | None
    images: tuple[Path, ...] = ()
    labels: Sequence[str] = ()
    captions: Sequence[str] = ()


class Entry(NamedTuple):
    """A listed sample, in which any field may be missing.

    Attributes:
        audio: sound file, relative to the root of the data set, or absolute.
        images: image files; the frames of a video in temporal order.
        captions: captions, any of which describes the whole sample.
        labels: names of the sample's classes.
        segment: start and end of the segment in the sound file, in seconds; None for the whole file.
        fold: number of the sample's fold.
        source: recording that the sample comes from, such as "youtube:-0SdAVK79lg"; None if unknown.
    """

    audio: str | None = None
    images: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    segment: Segment | None = None
    fold: int | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        """File name, with the segment as a URL fragment (`#t=10,20`), or else the first caption."""
        if self.audio is None:
            return next(iter((*self.images, *self.captions)), "")
        if self.segment is None:
            return self.audio
        begin, end = self.segment
        return f"{self.audio}#t={begin:g}" + ("" if end is None else f",{end:g}")


class Entries:
    """Entries packed into one array, with about 100 bytes per entry, which worker processes share.

    Attributes:
        have_texts: whether any entry has a caption.

    Raises:
        ValueError: A name is not UTF-8.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        packed, ends, sources = bytearray(), [0], list[bytes]()
        self.have_texts = False
        for entry in entries:
            self.have_texts |= bool(entry.captions)
            # A single caption is not in a list, so that digests equal those of versions without lists.
            captions = entry.captions if len(entry.captions) > 1 else next(iter(entry.captions), None)
            fields = entry._replace(captions=captions)  # type: ignore[arg-type]
            try:
                packed += json.dumps(fields[:-1], ensure_ascii=False, separators=(",", ":")).encode()
                sources.append((entry.source or "").encode())
            except UnicodeEncodeError as error:
                raise ValueError(f"The name {shown(entry.name)} is not UTF-8; rename the file.") from error
            ends.append(len(packed))
        self._bytes: NDArray[np.uint8] = np.frombuffer(bytes(packed), np.uint8)
        self._ends: NDArray[np.int64] = np.array(ends)
        self._sources: NDArray[np.bytes_] = np.array(sources, np.bytes_)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Entry:
        index = range(len(self))[index]  # raises an IndexError
        packed = self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()
        audio, images, captions, labels, segment, fold = json.loads(packed)
        several = (captions,) if isinstance(captions, str) else tuple(captions or ())
        source = self._sources[index].decode() or None
        return Entry(audio, tuple(images), several, tuple(labels), segment and tuple(segment), fold, source)

    def select(self, mask: NDArray[np.bool_]) -> Entries:
        """Return the entries in the mask, bool `[entries]`; `have_texts` stays that of all entries."""
        part = copy(self)
        lengths = np.diff(self._ends)
        part._bytes = self._bytes[mask.repeat(lengths)]
        part._ends = np.concatenate([[0], lengths[mask].cumsum()])
        part._sources = self._sources[mask]
        return part

    @property
    def sources(self) -> Iterator[str | None]:
        """The recording of each entry."""
        return (source.decode() or None for source in self._sources.tolist())

    @property
    def digest(self) -> str:
        """Hash of the entries, without their recordings, and of their order."""
        digest = hashlib.sha256(self._bytes.tobytes())
        digest.update(self._ends.tobytes())
        return digest.hexdigest()[:16]
