"""Finds where MPEG audio (layers I to III, such as MP3) begins and ends in a file."""

import re
from typing import BinaryIO

from .view import Layout, View, read_bytes, size_of

_KBPS = {  # by whether the version is 1, and by layer; versions 2 and 2.5 have one row for layers 2 and 3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BLOCK = 1 << 16  # bytes
_ID3_TAG = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
"""An empty one: libsndfile only recognises MPEG audio without a file name after an ID3v2 tag."""


def after_id3(file: BinaryIO, at: int) -> int:
    """Find where ID3v2 tags end that begin here."""
    while (header := read_bytes(file, at, 10))[:3] == b"ID3" and len(header) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
        at += 10 + size + (10 if header[5] & 0x10 else 0)
    return at


def is_mpeg_frame(header: bytes) -> bool:
    """Return whether a frame of MPEG audio, layer I to III, begins with these bytes; AAC has no layer."""
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


def mpeg_layout(file: BinaryIO, start: int) -> Layout:
    """Have MPEG audio decoded until its last whole frame, unless a Xing header says how many there are.

    Without one, and where there are more frames than it says, as in files that were joined, libsndfile's
    length is an estimate from the size of the file. It does not read on beyond it, so a larger size is
    pretended.
    """
    head = read_bytes(file, start, 64)
    stereo, version_1 = head[3] & 0xC0 != 0xC0, head[1] & 0x18 == 0x18
    at = 4 + ((32 if stereo else 17) if version_1 else (17 if stereo else 9))
    flags, announced, size = (int.from_bytes(head[at + skip : at + skip + 4], "big") for skip in (4, 8, 12))
    if head[at : at + 4] in (b"Xing", b"Info") and not any(head[4:at]) and flags & 1 and announced:
        if flags & 2:
            more = is_mpeg_frame(read_bytes(file, after_id3(file, start + size), 4))
        else:  # the header's own frame, and one that some encoders do not count, are no more
            more = _mpeg_frames(file, start)[0] > announced + 2
        if not more:
            return Layout(views=(View(file, _ID3_TAG, start),))
        head = head[:at] + bytes(4) + head[at + 4 :]
    stop = _mpeg_frames(file, start)[1]
    return Layout(
        views=(View(file, _ID3_TAG + head, start + len(head), stop, open_ended=True),), estimated=True
    )


def _mpeg_frames(file: BinaryIO, at: int) -> tuple[int, int]:
    """Count the whole frames, and find where the last of them ends; bytes between frames are passed over."""
    size, stop, count = size_of(file), at, 0
    while at < size:
        header = read_bytes(file, at, 4)
        if is_mpeg_frame(header):
            at += _mpeg_frame_bytes(header)
            count, stop = (count + 1, at) if at <= size else (count, stop)
        else:
            at = next_mpeg_frame(file, at)
    return count, stop


def next_mpeg_frame(file: BinaryIO, at: int) -> int:
    """Find two frames, one after the other, behind bytes that belong to none; else the end of the file."""
    at += 1
    while block := read_bytes(file, at, _BLOCK):
        for found in re.finditer(rb"\xff[\xe2-\xff]", block):
            here = at + found.start()
            header = read_bytes(file, here, 4)
            if is_mpeg_frame(header) and is_mpeg_frame(read_bytes(file, here + _mpeg_frame_bytes(header), 4)):
                return here
        at += max(1, len(block) - 1)
    return size_of(file)
