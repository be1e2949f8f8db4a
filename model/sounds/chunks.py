"""Finds the samples in chunk files (WAV, RF64, W64, AIFF, CAF), AU and NIST SPHERE files."""

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from .view import Layout, View, read_bytes, size_of

_PLACEHOLDER = 0x7F000000
"""Sizes of at least this many bytes, and 0, mean "to the end of the file": sox writes 0x7F000000 and
0x7FFFF000, arecord 0x80000000, ffmpeg 0xFFFFFFFF. Files that really are this large have too many samples to
be read."""

_MISCOUNTED = (
    44  # bytes that may be missing: some writers count their own header, and 44 bytes are under 1 ms
)


def chunk_layout(file: BinaryIO) -> Layout:
    """Correct the header if it lacks the size of the samples, and detect missing samples."""
    magic = read_bytes(file, 0, 12)
    if magic[:7] == b"NIST_1A":
        return _nist(file)
    form = _FORMS.get(magic[:4])
    chunk = _au(magic) if form is None else _samples_chunk(file, form)
    if chunk is None:
        return Layout()
    available = size_of(file) - chunk.start
    if available < 0:
        return Layout()
    if 0 < chunk.size < _PLACEHOLDER:
        padded = chunk.size + (-chunk.size % form.multiple if form else 0)
        more = available > chunk.size and not _only_chunks(file, form, chunk.start + padded)
        note = f"its header promises {chunk.size} bytes of samples, and {available - chunk.size} follow them"
        return Layout(cut=_cut(chunk.size, available), note=note if more else "")
    if available <= chunk.size or (chunk.size == 0 and not _only_chunks(file, form, chunk.start)):
        head = bytearray(read_bytes(file, 0, chunk.start))
        first, stop = chunk.field
        size = min(available + chunk.counted, 256 ** (stop - first) - 1)
        head[first:stop] = size.to_bytes(stop - first, chunk.order)
        return Layout(views=(View(file, bytes(head), chunk.start),))
    return Layout()


def _cut(promised: int, available: int) -> str:
    """Say how many bytes of samples the header promises and the file has, or "" if none are missing."""
    if promised - available <= _MISCOUNTED:
        return ""
    return f"its header promises {promised} bytes of samples, the file has {available}"


def _nist(file: BinaryIO) -> Layout:
    """Detect missing samples in a NIST SPHERE file, which libsndfile would read without an error."""
    head = read_bytes(file, 0, 1024)
    if b"embedded-" in head:  # compressed, which libsndfile refuses
        return Layout()
    start, count, channels, width = (
        int(found[1]) if (found := re.search(pattern, head)) else default
        for pattern, default in _NIST_FIELDS.items()
    )
    return Layout(cut=_cut(count * channels * width, size_of(file) - start))


_NIST_FIELDS = {
    rb"\n *(\d+)\n": 1024,  # bytes of the header
    rb"sample_count -\w+ (\d+)": 0,
    rb"channel_count -\w+ (\d+)": 1,
    rb"sample_n_bytes -\w+ (\d+)": 2,
}
"""Patterns of the header's numbers, and their defaults."""


class _Form(NamedTuple):
    """Conventions of a format that consists of chunks; positions and lengths are in bytes.

    Attributes:
        first: start of the first chunk.
        name: length of a chunk's name.
        size: length of a chunk's size field.
        order: byte order of the size field.
        counted: bytes that the size includes in addition to the content.
        multiple: alignment; contents are padded to a multiple of this length.
    """

    first: int
    name: int
    size: int
    order: Literal["little", "big"]
    counted: int
    multiple: int


class _Chunk(NamedTuple):
    """A chunk, or the samples of an AU file.

    Attributes:
        name: first four bytes of the chunk's name.
        field: start and end of the size field.
        order: byte order of the size field.
        size: length of the content according to the size field, bytes.
        start: start of the content.
        counted: bytes that the size field includes in addition to the content.
    """

    name: bytes
    field: tuple[int, int]
    order: Literal["little", "big"]
    size: int
    start: int
    counted: int = 0


_FORMS = {
    b"RIFF": _Form(12, 4, 4, "little", 0, 2),
    b"RIFX": _Form(12, 4, 4, "big", 0, 2),
    b"RF64": _Form(12, 4, 4, "little", 0, 2),
    b"riff": _Form(40, 16, 8, "little", 24, 8),  # W64
    b"FORM": _Form(12, 4, 4, "big", 0, 2),  # AIFF
    b"caff": _Form(8, 4, 8, "big", 0, 1),
}
_AU_ORDERS: dict[bytes, Literal["little", "big"]] = {b".snd": "big", b"dns.": "little"}


def _chunks(file: BinaryIO, form: _Form, at: int) -> Iterator[_Chunk]:
    """Yield consecutive chunks, up to the first bytes that do not look like a chunk."""
    length = form.name + form.size
    while len(header := read_bytes(file, at, length)) == length:
        if not header[:4].decode("latin-1").isprintable():
            return
        size = max(0, int.from_bytes(header[form.name :], form.order) - form.counted)
        start = at + length
        yield _Chunk(header[:4], (at + form.name, start), form.order, size, start, form.counted)
        at = start + size + -size % form.multiple


def _samples_chunk(file: BinaryIO, form: _Form) -> _Chunk | None:
    size_64: _Chunk | None = None
    for chunk in _chunks(file, form, form.first):
        if chunk.name == b"ds64":  # RF64's 64-bit sizes of the file and its samples
            field = (chunk.start + 8, chunk.start + 16)
            size = int.from_bytes(read_bytes(file, field[0], 8), "little")
            size_64 = chunk._replace(field=field, size=size)
        elif chunk.name in (b"data", b"SSND"):
            if size_64 is not None and chunk.size == 0xFFFFFFFF:
                return size_64._replace(start=chunk.start)
            return chunk
    return None


def _au(magic: bytes) -> _Chunk | None:
    order = _AU_ORDERS.get(magic[:4])
    if order is None:
        return None
    start, size = (int.from_bytes(magic[at : at + 4], order) for at in (4, 8))
    return _Chunk(magic[:4], (8, 12), order, size, start)


def _only_chunks(file: BinaryIO, form: _Form | None, at: int) -> bool:
    """Return whether the rest of the file consists of chunks and therefore contains no samples."""
    end = at
    for chunk in () if form is None else _chunks(file, form, at):
        end = chunk.start + chunk.size
    return abs(size_of(file) - end) <= 1  # with or without a padding byte at the end
