"""Binary files with corrected headers, which libsndfile reads in place of the originals."""

import io
import os
from typing import BinaryIO, NamedTuple

ID3V1_TAG = 128  # length of the tag at the end of a file, bytes
_BEYOND_ALL_FILES = 2**40  # position, bytes: damaged headers may point to where file systems cannot seek


class View(io.RawIOBase):
    """A binary file that consists of `head` followed by the bytes `start` to `stop` of another file.

    Args:
        file: the other file.
        head: bytes that replace those before `start`.
        start: position of the first byte from the other file.
        stop: end position in the other file; None for its end.
        open_ended: pretend to be far longer, whatever the bit rate. The pretended file ends with zeros, where
            libsndfile looks for an ID3v1 tag.

    Attributes:
        file: the other file.
        error: exception raised while reading the other file; libsndfile itself would mistake it for the end.
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
        """Read into the buffer until it is full or the file ends; return the number of bytes."""
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
    """Parts of a sound file to decode, and facts about its length.

    Attributes:
        views: parts to decode one after another in place of the file; empty to decode the file itself.
        estimated: whether libsndfile only estimates the number of samples.
        announced: samples per channel according to a header that is not trusted; 0 if unknown.
        cut: evidence that the end of the file is missing, or "".
        note: oddity of a file that decodes completely, or "".
    """

    views: tuple[View, ...] = ()
    estimated: bool = False
    announced: int = 0
    cut: str = ""
    note: str = ""


def read_bytes(file: BinaryIO, at: int, count: int) -> bytes:
    """Read `count` bytes at a position, fewer at the end of the file."""
    if at >= _BEYOND_ALL_FILES:
        return b""
    file.seek(at)
    return file.read(count)


def size_of(file: BinaryIO) -> int:
    """Return the size of a file, bytes."""
    return file.seek(0, os.SEEK_END)
