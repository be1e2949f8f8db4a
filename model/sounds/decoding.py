"""Decodes sound files block by block, for reading and checking, and decides what counts as damage.

A sound's length is the number of samples that decode, whatever the header says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from ..inputs import beginning_of, name_placeholder
from .layout import has_second_flac, read_layout

Segment: TypeAlias = tuple[float, float | None]
"""Start and end of a segment of a recording, seconds; the end is None for the end of the recording."""
Fault: TypeAlias = Literal["missing", "empty", "unreadable", "truncated", "not finite", "too loud"]
Block: TypeAlias = npt.NDArray[np.float32]
"""Consecutive samples, float32 `[T, C]`; full scale is 1."""

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
"""Allowed sample rates, Hz. Resampling a small file from 1 Hz would exhaust any memory."""
LOUDEST = 8.0
"""Maximum absolute sample where full scale is 1. Overshoots are a few dB; 18 dB indicate another unit."""

_BLOCK = 2**20  # values to decode at once; the header's length could ask for too much memory
_BEYOND_END = 2**12  # samples to request beyond the end that the header announces
_SYSTEM_ERROR = 2  # libsndfile's code for a file-system error
_UNKNOWN_LENGTH = 2**40  # samples; libsndfile reports at least this many if the header has no length


class UnusableAudio(ValueError):
    """A sound cannot be used; `fault` is the reason in one or two words, `detail` the reason in full."""

    def __init__(self, message: str, *, fault: Fault = "unreadable", detail: str = "") -> None:
        super().__init__(message)  # a single argument keeps the exception picklable
        self.fault = fault
        self.detail = detail


def refuse_loud(peak: float, name: str, advice: str, *, full_scale: float = 1.0) -> None:
    """Raise UnusableAudio if the largest absolute sample is above `LOUDEST` times full scale.

    The message begins with the `name` of the sound and ends with `advice`.
    """
    if peak > LOUDEST * full_scale:
        detail = f"has a peak of {peak:.3g} where full scale is {full_scale:g}"
        raise UnusableAudio(
            f"{name}: {detail}, so it must be in another unit; {advice}.", fault="too loud", detail=detail
        )


class AudioReader:
    """An open sound file that is decoded once, from front to back.

    Args:
        source: path of the file, or the file's content as a seekable binary file.
        name: name of the file in messages.

    Attributes:
        rate: sample rate, Hz.
        channels: number of channels.
        note: harmless oddity of the file, or ""; final after reading.

    Raises:
        UnusableAudio: The file does not decode, is cut off, or has a sample rate outside the limits.
        OSError: The file cannot be read.
    """

    def __init__(self, source: Path | BinaryIO, name: str) -> None:
        self._source = source
        self._name = name
        self._part = 0
        self._decoded = 0  # samples decoded from the current part
        self._content = ExitStack()
        self._opened = ExitStack()
        try:
            content = self._content.enter_context(source.open("rb")) if isinstance(source, Path) else source
            self._layout = read_layout(content, name)
            if self._layout.cut:
                raise self._truncated(self._layout.cut)
            self._file = self._open()
        except BaseException:
            self.close()
            raise
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.note = self._layout.note

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()
        self._content.close()

    def announced(self, segment: Segment | None = None) -> int:
        """Return the header's number of samples per channel in a segment; 0 if it is unknown."""
        first, last = self._bounds(segment)
        length = self._length or 0
        return max(0, (length if last is None else min(length, last)) - first)

    def blocks(self, segment: Segment | None = None) -> Iterator[Block]:
        """Decode a segment, clipped to the end of the sound, or the whole sound for None.

        Raises:
            UnusableAudio: The sound does not decode, ends early, or has samples that are too loud or not
                finite.
            OSError: The file cannot be read.
        """
        first, last = self._bounds(segment)
        position = self._go_to(first)
        while last is None or position < last:
            block = self._read(_BLOCK if last is None else last - position)
            if not len(block):
                return
            wanted = block[max(0, first - position) :]
            position += len(block)
            if len(wanted):
                self._check(wanted)
                yield wanted

    def _bounds(self, segment: Segment | None) -> tuple[int, int | None]:
        first, last = (
            None if seconds is None else round(min(seconds * self.rate, _UNKNOWN_LENGTH))
            for seconds in segment or (0.0, None)
        )
        return first or 0, last

    def _go_to(self, first: int) -> int:
        """Seek to a sample if the file allows it; return the first sample of the next block."""
        # libsndfile seeks to the wrong sample in 24-bit PAF files with several channels.
        if first and len(self._layout.views) <= 1 and self._file.format != "PAF":
            try:
                self._decoded = self._file.seek(first)
            except soundfile.SoundFileRuntimeError:  # beyond the end, or unsupported by the format
                self._file = self._open()
        return self._decoded

    def _read(self, count: int) -> Block:
        """Decode at most `count` samples; return an empty block at the end."""
        # libsndfile fills requests beyond the end with zeros, so those requests are kept small.
        announced = self._length or self._layout.announced
        remaining = (announced or _UNKNOWN_LENGTH) - self._decoded
        count = min(count, max(1, _BLOCK // self.channels), remaining if remaining > 0 else _BEYOND_END)
        try:
            with self._translated():
                block: Block = self._file.read(count, dtype="float32", always_2d=True)
        except UnusableAudio:
            if self._file.format != "FLAC" or not announced or self._decoded != announced:
                raise
            if has_second_flac(self._layout.views[0].file):
                detail = "several FLAC files in one; join them as `sox a.flac b.flac both.flac` does"
                raise self._unusable(detail) from None
            self.note = f"the bytes after its {announced} samples do not decode; they may be a tag"
            block = np.empty((0, self.channels), np.float32)
        self._decoded += len(block)
        if len(block):
            return block
        self._compare_with_header()
        if self._part + 1 >= len(self._layout.views):
            return block
        self._part += 1
        self._decoded = 0
        self._file = self._open()
        if (self._file.samplerate, self._file.channels) != (self.rate, self.channels):
            raise self._unusable("consists of streams that differ in sample rate or channels")
        return self._read(count)

    def _compare_with_header(self) -> None:
        if self._length is not None and self._decoded < self._length:
            raise self._truncated(
                f"its header promises {self._length} samples, {self._decoded} can be decoded"
            )
        if self._layout.announced not in (0, self._decoded):
            self.note = f"its header promises {self._layout.announced} samples, it has {self._decoded}"

    def _check(self, block: Block) -> None:
        low, high = float(block.min()), float(block.max())  # NaN if any sample is NaN
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UnusableAudio(f"{self._name}: contains non-finite values.", fault="not finite")
        refuse_loud(max(-low, high), self._name, "scale it to -1..1 (16-bit units: divide by 32768)")

    def _unusable(self, detail: str) -> UnusableAudio:
        return UnusableAudio(f"{self._name}: {detail}.", detail=detail)

    def _truncated(self, detail: str) -> UnusableAudio:
        return UnusableAudio(f"{self._name}: truncated; {detail}.", fault="truncated", detail=detail)

    def _not_decodable(self, reason: str) -> UnusableAudio:
        if (known := name_placeholder(beginning_of(self._source))) is not None:
            return UnusableAudio(f"{self._name}: is {known}", detail=f"is {known.rstrip('.')}")
        return UnusableAudio(f"{self._name}: not decodable as audio ({reason}).", detail=reason)

    @property
    def _length(self) -> int | None:
        """Samples per channel in the current part; None if its header does not say."""
        frames: int = self._file.frames
        return None if self._layout.estimated or frames >= _UNKNOWN_LENGTH else frames

    def _open(self) -> _Forward:
        """Close the previous part, and open the current part with libsndfile."""
        self._opened.close()
        views = self._layout.views
        source = views[self._part] if views else self._source
        if not isinstance(source, Path):
            source.seek(0)
        # soundfile would encode file names as UTF-8, but some are not valid UTF-8.
        named = os.fsencode(source) if isinstance(source, Path) and os.name == "posix" else source
        with self._translated():
            file: _Forward = self._opened.enter_context(_Forward(named))
        if file.format == "RAW":  # libsndfile reads any x.au without a header as raw samples
            raise self._not_decodable("Format not recognised")
        if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
            raise self._unusable(
                f"its sample rate is {file.samplerate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are allowed"
            )
        return file

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn libsndfile's errors into `UnusableAudio`, but re-raise errors from reading the file."""
        try:
            yield
        except (RuntimeError, TypeError) as error:  # TypeError for a headerless suffix such as .raw
            reason = str(getattr(error, "error_string", None) or error).rstrip(".")
            if getattr(error, "code", None) == _SYSTEM_ERROR:
                raise OSError(f"{self._name}: cannot be read ({reason}).") from None
            raise self._not_decodable(reason) from None
        finally:
            for view in self._layout.views:
                if view.error is not None:
                    raise view.error


class _Forward(soundfile.SoundFile):
    """A sound file that claims not to be seekable.

    soundfile then does not query the position after each block, which some formats do not support.
    """

    def seekable(self) -> bool:
        return False
