"""Decodes sound files block by block to their end, for reading them and for checking them.

The length of a sound is what decodes, not what its header says. What counts as damage is decided here, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from ..inputs import beginning_of, name_placeholder
from .layout import is_flac_behind_flac, read_layout

Segment: TypeAlias = tuple[float, float | None]
"""Part of a recording: seconds where it begins and where it ends; None: with the recording."""
Fault: TypeAlias = Literal["missing", "empty", "unreadable", "truncated", "not finite", "too loud"]
Block: TypeAlias = npt.NDArray[np.float32]
"""Consecutive samples, float32 `[T, C]`; full scale is 1."""

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
"""Sample rates of files that are read, Hz. A small file at 1 Hz, resampled, would fill any memory."""
LOUDEST = 8.0
"""Largest sample where full scale is 1: decoders and mixes overshoot by a few dB; 18 dB are another unit."""

_BLOCK = 2**20  # values decoded at once: memory is taken for what is there, not for what is announced
_BEYOND_END = 2**12  # samples asked for where the sound should end, by what its header says
_SYSTEM_ERROR = 2  # of libsndfile: the file system failed, not the content
_UNKNOWN_LENGTH = 2**40  # and more: what libsndfile says where a header does not tell


class UnusableAudio(ValueError):
    """A sound that cannot be used; `fault` says why in a word or two, `detail` in full."""

    def __init__(self, message: str, *, fault: Fault = "unreadable", detail: str = "") -> None:
        super().__init__(message)  # alone, so that it survives the way between processes
        self.fault = fault
        self.detail = detail


def refuse_loud(peak: float, name: str, advice: str, *, full_scale: float = 1.0) -> None:
    """Raise if samples cannot be in the unit that is expected.

    Args:
        peak: largest absolute value of the samples.
        name: of the sound in messages.
        advice: what to do.
        full_scale: of the unit.

    Raises:
        UnusableAudio: the peak is above `LOUDEST` times full scale.
    """
    if peak > LOUDEST * full_scale:
        detail = f"has a peak of {peak:.3g} where full scale is {full_scale:g}"
        raise UnusableAudio(
            f"{name}: {detail}, so it is in another unit; {advice}.", fault="too loud", detail=detail
        )


class AudioReader:
    """A sound file that is open for reading, once, from front to back.

    Args:
        source: path of the file, or its content as a binary file that can be searched.
        name: of the file in messages.

    Attributes:
        rate: samples a second.
        channels: number of channels.
        note: what is odd about the file though it can be used; complete after reading; empty: nothing is.

    Raises:
        UnusableAudio: the file does not decode, is cut off, or has a sample rate outside the limits.
        OSError: it cannot be read.
    """

    def __init__(self, source: Path | BinaryIO, name: str) -> None:
        self._source = source
        self._name = name
        self._part = 0
        self._decoded = 0  # samples of this part
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        self._opened.close()
        self._content.close()

    def announced(self, segment: Segment | None = None) -> int:
        """Say how many samples per channel a part has by the header; 0 where that does not tell."""
        first, last = self._bounds(segment)
        length = self._length or 0
        return max(0, (length if last is None else min(length, last)) - first)

    def blocks(self, segment: Segment | None = None) -> Iterator[Block]:
        """Decode a part of the sound, no more than there is of it; None: all.

        Raises:
            UnusableAudio: it does not decode, ends too early, or has samples that are not finite or too loud.
            OSError: it cannot be read.
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
                self._judge(wanted)
                yield wanted

    def _bounds(self, segment: Segment | None) -> tuple[int, int | None]:
        first, last = (
            None if seconds is None else round(min(seconds * self.rate, _UNKNOWN_LENGTH))
            for seconds in segment or (0.0, None)
        )
        return first or 0, last

    def _go_to(self, first: int) -> int:
        """Move to a sample where that is possible; return where the next block begins, else 0."""
        # In PAF of 24 bits and several channels libsndfile moves to another place.
        if first and len(self._layout.views) <= 1 and self._file.format != "PAF":
            try:
                self._decoded = self._file.seek(first)
            except soundfile.SoundFileRuntimeError:  # there is none, or the format cannot
                self._file = self._open()
        return self._decoded

    def _read(self, count: int) -> Block:
        """Decode the next samples, at most so many; none at the end."""
        # libsndfile fills with zeros what it is asked for beyond the end, so it is not asked for much.
        announced = self._length or self._layout.announced
        remaining = (announced or _UNKNOWN_LENGTH) - self._decoded
        count = min(count, max(1, _BLOCK // self.channels), remaining if remaining > 0 else _BEYOND_END)
        try:
            with self._translated():
                block: Block = self._file.read(count, dtype="float32", always_2d=True)
        except UnusableAudio:
            if self._file.format != "FLAC" or not announced or self._decoded != announced:
                raise
            if is_flac_behind_flac(self._layout.views[0].file):
                detail = "several FLAC files in one; join them as `sox a.flac b.flac both.flac` does"
                raise UnusableAudio(f"{self._name}: {detail}.", detail=detail) from None
            self.note = f"the bytes behind its {announced} samples do not decode, as of a tag"
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
            detail = "consists of streams that differ in sample rate or channels"
            raise UnusableAudio(f"{self._name}: {detail}.", detail=detail)
        return self._read(count)

    def _compare_with_header(self) -> None:
        if self._length is not None and self._decoded < self._length:
            detail = f"its header promises {self._length} samples, {self._decoded} can be decoded"
            raise self._truncated(detail)
        if self._layout.announced not in (0, self._decoded):
            self.note = f"its header promises {self._layout.announced} samples, it has {self._decoded}"

    def _judge(self, block: Block) -> None:
        low, high = float(block.min()), float(block.max())  # NaN if one is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UnusableAudio(f"{self._name}: holds values that are not finite.", fault="not finite")
        refuse_loud(max(-low, high), self._name, "scale it to -1..1 (16-bit units: divide by 32768)")

    def _truncated(self, detail: str) -> UnusableAudio:
        return UnusableAudio(f"{self._name}: truncated; {detail}.", fault="truncated", detail=detail)

    def _not_decodable(self, reason: str) -> UnusableAudio:
        if (known := name_placeholder(beginning_of(self._source))) is not None:
            return UnusableAudio(f"{self._name}: is {known}", detail=f"is {known.rstrip('.')}")
        return UnusableAudio(f"{self._name}: not decodable as audio ({reason}).", detail=reason)

    @property
    def _length(self) -> int | None:
        """Samples per channel of the present part, where its header tells."""
        frames: int = self._file.frames
        return None if self._layout.estimated or frames >= _UNKNOWN_LENGTH else frames

    def _open(self) -> _Forward:
        """Have libsndfile open the present part in place of what was open."""
        self._opened.close()
        views = self._layout.views
        source = views[self._part] if views else self._source
        if not isinstance(source, Path):
            source.seek(0)
        # soundfile encodes texts as UTF-8, which some names are not.
        named = os.fsencode(source) if isinstance(source, Path) and os.name == "posix" else source
        with self._translated():
            file: _Forward = self._opened.enter_context(_Forward(named))
        if file.format == "RAW":  # libsndfile takes anything named x.au for samples without a header
            raise self._not_decodable("Format not recognised")
        if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
            allowed = f"{LOWEST_RATE} to {HIGHEST_RATE} are read"
            detail = f"its sample rate is {file.samplerate} Hz; {allowed}"
            raise UnusableAudio(f"{self._name}: {detail}.", detail=detail)
        return file

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what libsndfile says as an `UnusableAudio`, and what reading a file raises as it is."""
        try:
            yield
        except (RuntimeError, TypeError) as error:  # TypeError: a name that promises no header, such as x.raw
            reason = str(getattr(error, "error_string", None) or error).rstrip(".")
            if getattr(error, "code", None) == _SYSTEM_ERROR:
                raise OSError(f"{self._name}: cannot be read ({reason}).") from None
            raise self._not_decodable(reason) from None
        finally:
            for view in self._layout.views:
                if view.error is not None:
                    raise view.error


class _Forward(soundfile.SoundFile):
    """A file that soundfile does not ask for its position after each block: some formats cannot tell."""

    def seekable(self) -> bool:
        return False
