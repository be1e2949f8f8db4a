"""What a data set lists: one entry for each sample, a great many of them in little memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from model.sounds.decoding import Segment
from utils.datasets.sources.walking import shown


class Entry(NamedTuple):
    """One sample as it is listed. Any part of it may be absent.

    Attributes:
        audio: path of the file of its sound, relative to the root of the data set, or absolute.
        images: paths of its pictures; of a video the frames, in their order.
        text: that describes it.
        labels: names of its classes.
        segment: the part of the sound file that it is; None: all of it.
        fold: number of the fold it is in.
    """

    audio: str | None = None
    images: tuple[str, ...] = ()
    text: str | None = None
    labels: tuple[str, ...] = ()
    segment: Segment | None = None
    fold: int | None = None

    @property
    def name(self) -> str:
        """What it is called: its file, a part of one as URLs name it (`#t=10,20`), or else its text."""
        if self.audio is None:
            return self.images[0] if self.images else self.text or ""
        if self.segment is None:
            return self.audio
        begin, end = self.segment
        return f"{self.audio}#t={begin:g}" + ("" if end is None else f",{end:g}")


class Entries(Sequence[Entry]):
    """Entries in one array of bytes, which worker processes share, about 100 bytes each.

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
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no entry {index} of {len(self)}")
        index %= len(self)
        content: Any = json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())
        audio, images, text, labels, segment, fold = content
        return Entry(audio, tuple(images), text, tuple(labels), segment and tuple(segment), fold)

    def chosen(self, positions: Iterable[int]) -> Entries:
        """Some of them, in this order."""
        return Entries(self[position] for position in positions)

    @property
    def digest(self) -> str:
        """Another for other entries, or another order."""
        digest = hashlib.sha256(self._bytes.tobytes())
        digest.update(self._ends.tobytes())
        return digest.hexdigest()[:16]
