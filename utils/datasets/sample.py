"""What a data set lists (clips and entries) and what it returns (samples)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from model.sounds.decoding import Segment
from utils.datasets.sources.walking import shown


class Clip(NamedTuple):
    """One clip in the table of a data set in folds.

    Attributes:
        path: audio file, relative to the data set's root, with `/` on every system.
        fold: number of its fold.
        target: number of its class in the table; not always contiguous (ESC-10 has 0, 1, 10, ..., 41).
        label: name of its class, as a reader would write it.
    """

    path: str
    fold: int
    target: int
    label: str


class Sample(NamedTuple):
    """One sample as models take it: `(audio, image, labels)`.

    Attributes:
        audio: float32 numpy `[C, T]` in 16-bit units (about -32768..32767), or the result of
            `transform_audio`.
        image: uint8 tensor `[3, H, W]`, or `sources.frames.Frames`; None in a data set of sounds.
        labels: the clip's labels, `list[str]`, or the result of `target_transform`.
    """

    audio: Any
    image: Any
    labels: Any


class DescribedSample(NamedTuple):
    """A sample with a text; `sample[:3]` are the fields of a `Sample`, None where it lacks them.

    Attributes:
        text: a caption or other description; None if it has none.
    """

    audio: Any
    image: Any
    labels: Any
    text: Any


class Listing(NamedTuple):
    """Facts about a sample that a data set knows without reading its files.

    Tasks check all samples before a run by a data set's method `listing(index)`, or `listings()`, which
    yields representative samples.

    Attributes:
        place: where the sample is listed, such as "own.csv, line 3: dog.wav".
        labels: names of its classes.
        text: caption; None if it has none.
        audio: whether it has a sound.
    """

    place: str
    labels: Sequence[str] = ()
    text: str | None = None
    audio: bool = True


class SampleFiles(NamedTuple):
    """The files of a sample, for code that copies instead of decoding.

    A data set returns them from `files(index)`, or None if reading the files with `model.audio_input` and
    `model.clip.image_input` does not give the sample.

    Attributes:
        audio: sound file; None if it has no sound.
        images: picture files.
        labels: names of its classes.
        text: caption; None if it has none.
    """

    audio: Path | None
    images: tuple[Path, ...] = ()
    labels: Sequence[str] = ()
    text: str | None = None


class Entry(NamedTuple):
    """One listed sample, of which any part may be absent.

    Attributes:
        audio: sound file, relative to the root of the data set, or absolute.
        images: picture files; the frames of a video in their order.
        text: caption.
        labels: names of its classes.
        segment: the part of the sound file, seconds; None: all of it.
        fold: number of its fold.
    """

    audio: str | None = None
    images: tuple[str, ...] = ()
    text: str | None = None
    labels: tuple[str, ...] = ()
    segment: Segment | None = None
    fold: int | None = None

    @property
    def name(self) -> str:
        """The file, with a segment as URLs write it (`#t=10,20`), or else the text."""
        if self.audio is None:
            return self.images[0] if self.images else self.text or ""
        if self.segment is None:
            return self.audio
        begin, end = self.segment
        return f"{self.audio}#t={begin:g}" + ("" if end is None else f",{end:g}")


class Entries(Sequence[Entry]):
    """Entries packed into one array of about 100 bytes each, which worker processes share.

    Raises:
        ValueError: a name is not UTF-8.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        packed, ends = bytearray(), [0]
        for entry in entries:
            try:
                packed += json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"The name {shown(entry.name)} is not UTF-8; rename the file.") from error
            ends.append(len(packed))
        self._bytes: NDArray[np.uint8] = np.frombuffer(bytes(packed), np.uint8)
        self._ends: NDArray[np.int64] = np.array(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        positions = range(len(self))[index]  # raises an IndexError
        if isinstance(positions, range):
            return [self[position] for position in positions]
        content: Any = json.loads(self._bytes[self._ends[positions] : self._ends[positions + 1]].tobytes())
        audio, images, text, labels, segment, fold = content
        return Entry(audio, tuple(images), text, tuple(labels), segment and tuple(segment), fold)

    @property
    def digest(self) -> str:
        """Hash of the entries and their order."""
        digest = hashlib.sha256(self._bytes.tobytes())
        digest.update(self._ends.tobytes())
        return digest.hexdigest()[:16]
