"""Finds the samples in sound files: MPEG audio, FLAC and Ogg here, other formats in chunks.py.

libsndfile trusts headers, but programs that write to a pipe, are killed or join files leave wrong headers.
The length is therefore taken from the file itself, and libsndfile is given a corrected header.
"""

import re
from typing import BinaryIO

from .chunks import chunk_layout
from .view import ID3V1_TAG, Layout, View, read_bytes, size_of

_FLAC_UNKNOWN = 2**36 - 1  # largest number of samples that a header can state
_FLAC_START = b"fLaC\0\0\0\x22"
_OGG_HEADER = 27  # length of a page's header before its segment table, bytes
_BLOCK = 1 << 16  # bytes
_KBPS = {  # keyed by "is version 1" and layer; layers 2 and 3 of versions 2 and 2.5 share a row
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_ID3_TAG = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
"""Empty ID3v2 tag: without a file name, libsndfile only recognises MPEG audio that follows such a tag."""


def read_layout(file: BinaryIO, name: str) -> Layout:
    """Inspect a sound file's headers; unknown formats are left to libsndfile.

    If `name` ends in mp3 or mp2, other bytes may precede the first frame.
    """
    start = _after_id3(file, 0)
    magic = read_bytes(file, start, 4)
    if magic == b"OggS":
        return _ogg(file, start)
    if magic == b"fLaC":
        return _flac(file, start)
    if _is_mpeg_frame(magic):
        return _mpeg(file, start)
    if start or name.lower().endswith(("mp3", "mp2")):
        start = _next_mpeg_frame(file, start)
        return _mpeg(file, start) if start < size_of(file) else Layout()
    return chunk_layout(file)


def _flac(file: BinaryIO, start: int) -> Layout:
    """Make FLAC decode to its end: the 36-bit number of samples in the header becomes 0, for unknown."""
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


def has_second_flac(file: BinaryIO) -> bool:
    """Search a whole file for a second FLAC stream, which libsndfile does not read."""
    return _FLAC_START in read_bytes(file, _after_id3(file, 0) + 1, -1)


def _ogg(file: BinaryIO, start: int) -> Layout:
    """Find the consecutive streams in an Ogg file, and check that the file is complete (RFC 3533)."""
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
        note="" if ended else "its last page is missing: it was recorded from a stream, or cut",
    )


def _next_page(file: BinaryIO, at: int) -> int:
    """Skip bytes that belong to no page; return the start of the next Ogg page, or the end of the file."""
    while block := read_bytes(file, at + 1, _BLOCK):
        if (found := block.find(b"OggS")) >= 0:
            return at + 1 + found
        at += max(1, len(block) - 3)
    return size_of(file)


def _after_id3(file: BinaryIO, at: int) -> int:
    """Return the end of the ID3v2 tags that begin at a position."""
    while (header := read_bytes(file, at, 10))[:3] == b"ID3" and len(header) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
        at += 10 + size + (10 if header[5] & 0x10 else 0)
    return at


def _is_mpeg_frame(header: bytes) -> bool:
    """Return whether the bytes are the start of an MPEG audio frame, layers I to III (AAC has no layer)."""
    return (
        len(header) >= 4
        and header[0] == 0xFF
        and header[1] & 0xE0 == 0xE0
        and header[1] & 0x18 != 0x08
        and header[1] & 0x06 != 0
        and header[2] & 0xF0 not in (0, 0xF0)
        and header[2] & 0x0C != 0x0C
    )


def _mpeg_frame_bytes(header: bytes) -> int:
    version_1 = header[1] & 0x18 == 0x18
    layer = 4 - (header[1] >> 1 & 3)
    kbps = _KBPS[version_1, layer if version_1 else min(layer, 2)][(header[2] >> 4) - 1]
    rate = (44100, 48000, 32000)[header[2] >> 2 & 3] >> (0 if version_1 else 1 if header[1] & 0x10 else 2)
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (12000 * kbps // rate + padding) * 4
    return (144000 if version_1 or layer == 2 else 72000) * kbps // rate + padding


def _mpeg(file: BinaryIO, start: int) -> Layout:
    """Make MPEG audio decode to its last whole frame, unless a Xing header has the right number of frames.

    If there is no Xing header, or more frames than it states (as in joined files), libsndfile estimates the
    length from the size of the file and does not read beyond that, so the view pretends to be larger.
    """
    head = read_bytes(file, start, 64)
    stereo, version_1 = head[3] & 0xC0 != 0xC0, head[1] & 0x18 == 0x18
    at = 4 + ((32 if stereo else 17) if version_1 else (17 if stereo else 9))
    flags, announced, size = (int.from_bytes(head[at + skip : at + skip + 4], "big") for skip in (4, 8, 12))
    if head[at : at + 4] in (b"Xing", b"Info") and not any(head[4:at]) and flags & 1 and announced:
        if flags & 2:
            more = _is_mpeg_frame(read_bytes(file, _after_id3(file, start + size), 4))
        else:  # allow for the header's own frame, and for a frame that some encoders do not count
            more = _mpeg_frames(file, start)[0] > announced + 2
        if not more:
            return Layout(views=(View(file, _ID3_TAG, start),))
        head = head[:at] + bytes(4) + head[at + 4 :]
    stop = _mpeg_frames(file, start)[1]
    return Layout(
        views=(View(file, _ID3_TAG + head, start + len(head), stop, open_ended=True),), estimated=True
    )


def _mpeg_frames(file: BinaryIO, at: int) -> tuple[int, int]:
    """Return the number of whole frames, skipping bytes between them, and the end of the last frame."""
    size, stop, count = size_of(file), at, 0
    while at < size:
        header = read_bytes(file, at, 4)
        if _is_mpeg_frame(header):
            at += _mpeg_frame_bytes(header)
            count, stop = (count + 1, at) if at <= size else (count, stop)
        else:
            at = _next_mpeg_frame(file, at)
    return count, stop


def _next_mpeg_frame(file: BinaryIO, at: int) -> int:
    """Skip to the next two consecutive frames; return their start, or the end of the file."""
    at += 1
    while block := read_bytes(file, at, _BLOCK):
        for found in re.finditer(rb"\xff[\xe2-\xff]", block):
            here = at + found.start()
            header = read_bytes(file, here, 4)
            if _is_mpeg_frame(header) and _is_mpeg_frame(
                read_bytes(file, here + _mpeg_frame_bytes(header), 4)
            ):
                return here
        at += max(1, len(block) - 1)
    return size_of(file)
