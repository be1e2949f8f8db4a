"""Binary files with corrected headers, for libsndfile to read in place of files with wrong ones."""

import io
import os
from typing import BinaryIO, NamedTuple

ID3V1_TAG = 128  # bytes at the end of a file
_BEYOND_ALL_FILES = 2**40  # bytes: damaged headers may point there, where file systems cannot seek


class View(io.RawIOBase):
    """A binary file that consists of `head` and the bytes `start` to `stop` of another one.

    Args:
        file: the other one.
        head: bytes in place of those before `start`.
        start: first byte of the other file.
        stop: end in the other file; None for its own end.
        open_ended: pretend to be far longer, whatever the bit rate; the pretended part ends with an empty
            ID3v1 tag.

    Attributes:
        file: the other one.
        error: exception raised by reading the other file, which libsndfile would take for its end.
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

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, bytes."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001 - any writable buffer
        """Fill the buffer as far as there are bytes."""
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
    """The parts of a file to decode, and the facts about its length.

    Attributes:
        views: parts to decode one after the other in place of the file; empty to decode the file itself.
        estimated: whether libsndfile only estimates the number of samples.
        announced: samples per channel in the header, if it is not relied on; 0 if unknown.
        cut: evidence that the end of the file is missing, or "".
        note: an oddity of a file that can be decoded completely, or "".
    """

    views: tuple[View, ...] = ()
    estimated: bool = False
    announced: int = 0
    cut: str = ""
    note: str = ""


def read_bytes(file: BinaryIO, at: int, count: int) -> bytes:
    """Read bytes at a position; fewer at the end of the file."""
    if at >= _BEYOND_ALL_FILES:
        return b""
    file.seek(at)
    return file.read(count)


def size_of(file: BinaryIO) -> int:
    """Return the size of a file, bytes."""
    return file.seek(0, os.SEEK_END)
