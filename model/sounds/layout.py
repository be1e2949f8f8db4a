"""Finds the samples of a sound file; decoding.py decodes them.

libsndfile believes headers. Programs that write to a pipe, are killed or join files leave wrong ones, so the
length is taken from the file itself, and libsndfile is shown a corrected header.
"""

from typing import BinaryIO

from .chunks import chunk_layout
from .mpeg import after_id3, is_mpeg_frame, mpeg_layout, next_mpeg_frame
from .view import ID3V1_TAG, Layout, View, read_bytes, size_of

_FLAC_UNKNOWN = 2**36 - 1  # the largest number of samples that a header can say
_FLAC_BEGINS = b"fLaC\0\0\0\x22"
_OGG_HEADER = 27  # bytes of a page before its table of segments
_BLOCK = 1 << 16  # bytes


def read_layout(file: BinaryIO, name: str) -> Layout:
    """Look at the headers of a sound file; formats that are not known here are left to libsndfile.

    Args:
        file: its content.
        name: of the file: where it ends in mp3 or mp2, there may be other bytes before the first frame.
    """
    start = after_id3(file, 0)
    magic = read_bytes(file, start, 4)
    if magic == b"OggS":
        return _ogg(file, start)
    if magic == b"fLaC":
        return _flac(file, start)
    if is_mpeg_frame(magic):
        return mpeg_layout(file, start)
    if start or name.lower().endswith(("mp3", "mp2")):
        start = next_mpeg_frame(file, start)
        return mpeg_layout(file, start) if start < size_of(file) else Layout()
    return chunk_layout(file)


def _flac(file: BinaryIO, start: int) -> Layout:
    """Have FLAC decoded until it ends: the number of samples, 36 bits of its header, is made 0: unknown."""
    head = bytearray(read_bytes(file, start, 26))
    if len(head) < 26:
        return Layout()
    announced = int.from_bytes(head[21:], "big") & _FLAC_UNKNOWN
    head[21:] = (int.from_bytes(head[21:], "big") & ~_FLAC_UNKNOWN).to_bytes(5, "big")
    end = size_of(file)
    tag = read_bytes(file, max(0, end - ID3V1_TAG), ID3V1_TAG).startswith(b"TAG")
    return Layout(
        views=(View(file, bytes(head), start + 26, end - ID3V1_TAG * tag),),
        announced=announced if announced < _FLAC_UNKNOWN else 0,
    )


def is_flac_behind_flac(file: BinaryIO) -> bool:
    """Look through a whole file for a second FLAC stream, which libsndfile does not read."""
    return _FLAC_BEGINS in read_bytes(file, after_id3(file, 0) + 1, -1)


def _ogg(file: BinaryIO, start: int) -> Layout:
    """Tell apart the streams that follow each other in an Ogg file, and see whether it ends (RFC 3533)."""
    size, at = size_of(file), start
    begins, header, ended = [start], True, False
    while at < size:
        page = read_bytes(file, at, _OGG_HEADER + 255)
        if page[:4] != b"OggS":
            at = _next_page(file, at)
            continue
        table = page[_OGG_HEADER : _OGG_HEADER + page[26]] if len(page) >= _OGG_HEADER else b""
        stop = at + _OGG_HEADER + len(table) + sum(table)
        if len(page) < _OGG_HEADER or len(table) < page[26] or stop > size:
            return Layout(cut="its last page is cut off")
        begins_stream = bool(page[5] & 2)
        if begins_stream and not header:
            begins.append(at)
        header, ended = begins_stream, bool(page[5] & 4)
        at = stop
    views = [View(file, b"", begin, end) for begin, end in zip(begins, [*begins[1:], size], strict=True)]
    return Layout(
        views=tuple(views) if len(views) > 1 else (),
        note="" if ended else "the page that ends it is missing: it was recorded from a stream, or cut",
    )


def _next_page(file: BinaryIO, at: int) -> int:
    """Find the next Ogg page after bytes that belong to none; the end of the file where there is none."""
    while block := read_bytes(file, at + 1, _BLOCK):
        if (found := block.find(b"OggS")) >= 0:
            return at + 1 + found
        at += max(1, len(block) - 3)
    return size_of(file)
