"""Files with corrected headers, which libsndfile reads in place of those whose headers are wrong."""

import io
import os
from typing import BinaryIO, NamedTuple

ID3V1_TAG = 128  # bytes at the end of a file
_BEYOND_ALL_FILES = 2**40  # bytes: where a damaged header may point, and file systems cannot seek


class View(io.RawIOBase):
    """A binary file that consists of `head` and the bytes `start` to `stop` of another one.

    Args:
        file: the other one.
        head: bytes in place of what is before `start`.
        start: of the other file.
        stop: of the other file; None: its end.
        open_ended: pretend to be far longer, whatever the bit rate does; all that can be read there is an
            empty ID3v1 tag.

    Attributes:
        file: the other one.
        error: what reading the other file raised; libsndfile takes that for its end.
    """

    def __init__(
        self,
        file: BinaryIO,
        head: bytes = b"",
        start: int = 0,
        stop: int | None = None,
        *,
        open_ended: bool = False,
    ) -> None:
        super().__init__()
        self.error: OSError | None = None
        self.file = file
        self._head = head
        self._shift = start - len(head)
        self._stop = (size_of(file) if stop is None else stop) - self._shift
        self._size = 64 * self._stop + 2**20 if open_ended else self._stop
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, bytes."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001 - any writable buffer
        """Read as much as fits and is there."""
        wanted = memoryview(buffer).cast("B")
        try:
            part = self._bytes(len(wanted))
        except OSError as error:
            self.error = error
            return 0
        wanted[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _bytes(self, count: int) -> bytes:
        at = self._position
        if at < len(self._head):
            return self._head[at : at + count]
        if at < self._stop:
            return read_bytes(self.file, at + self._shift, min(count, self._stop - at))
        return bytes(min(count, self._size - at)) if self._size - ID3V1_TAG <= at < self._size else b""


class Layout(NamedTuple):
    """Parts of a file to decode, and what is known about their length.

    Attributes:
        views: what to decode one after the other, in place of the file; empty: the file as it is.
        estimated: the number of samples that libsndfile gives is an estimate.
        announced: samples per channel that the header promises, where they are not relied on; 0: unknown.
        cut: what shows that the end of the file is missing; empty: nothing does.
        note: what is odd about the file though all of it can be decoded; empty: nothing is.
    """

    views: tuple[View, ...] = ()
    estimated: bool = False
    announced: int = 0
    cut: str = ""
    note: str = ""


def read_bytes(file: BinaryIO, at: int, count: int) -> bytes:
    """Read at a position; less at the end of the file."""
    if at >= _BEYOND_ALL_FILES:
        return b""
    file.seek(at)
    return file.read(count)


def size_of(file: BinaryIO) -> int:
    """Return the size of a file, bytes."""
    return file.seek(0, os.SEEK_END)
