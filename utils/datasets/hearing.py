"""One audio file listened to from end to end: whether it can be used, and what tells it from others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from model.audio_input import refuse_truncated_wav

Fault = Literal["missing", "empty", "unreadable", "truncated", "not finite"]

_BLOCK = 2**18  # samples read at a time: memory does not depend on what a header promises
_UNKNOWN_LENGTH = 2**40  # and more: what libsndfile says where a header does not tell
_UNKNOWN_SIZE = 0x7FFFF000  # and more: what programs write that cannot go back to a header
_OGG_PAGE = 65307  # bytes at most


class Heard(NamedTuple):
    """What is known of a file after listening.

    Attributes:
        fault: None if it can be used.
        detail: what more there is to say of the fault.
        rate: samples a second.
        channels: as the file has them.
        samples: in each channel.
        silent: whether all samples are equal.
        digest: hash of the samples; equal channels count as one.
    """

    fault: Fault | None = None
    detail: str = ""
    rate: int = 0
    channels: int = 0
    samples: int = 0
    silent: bool = False
    digest: str = ""


def listen(path: Path) -> Heard:
    """Decode a file as it is, at its own rate, and look at every sample; never raises for what is in it."""
    try:
        if not path.stat().st_size:
            return Heard("empty", "0 bytes")
        with soundfile.SoundFile(path) as file:
            heard = _hear(file)
        return heard if heard.fault else _unless_cut(path, heard)
    except FileNotFoundError:
        return Heard("missing")
    except soundfile.LibsndfileError as error:
        return Heard("unreadable", error.error_string.rstrip("."))
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # No permission, a folder; what soundfile raises itself; a suffix without a header; a name with NUL.
        return Heard("unreadable", str(error))


def _hear(file: soundfile.SoundFile) -> Heard:
    whole, first_channel = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    samples, one_sound = 0, True
    low, high = np.float32(np.inf), np.float32(-np.inf)
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):  # [T, C]
        samples += len(block)
        low, high = np.minimum(low, block.min()), np.maximum(high, block.max())  # NaN if one is
        one_sound = one_sound and bool((block == block[:, :1]).all())
        first_channel.update(block[:, 0].tobytes())
        if file.channels > 1:
            whole.update(block.tobytes())
    if file.frames < _UNKNOWN_LENGTH and samples < file.frames:
        return Heard("truncated", f"its header promises {file.frames} samples, {samples} can be decoded")
    if not samples:
        return Heard("empty", "no samples")
    if not (np.isfinite(low) and np.isfinite(high)):
        return Heard("not finite")
    digest = (first_channel if one_sound else whole).hexdigest()
    return Heard(None, "", file.samplerate, file.channels, samples, bool(low == high), digest)


def _unless_cut(path: Path, heard: Heard) -> Heard:
    """The same, unless the file ends before its end: libsndfile reads what is left without a word."""
    try:
        refuse_truncated_wav(path)
    except ValueError as error:
        return Heard("truncated", str(error).partition("truncated; ")[2].rstrip("."))
    with path.open("rb") as file:
        magic = file.read(4)
    detail = {b"RIFF": _cut_wav, b"OggS": _cut_ogg}.get(magic, lambda _: "")(path)
    return Heard("truncated", detail) if detail else heard


def _cut_wav(path: Path) -> str:
    """What is wrong where the chunk of samples reaches beyond the end of the file; else nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                there = size - file.tell()
                cut = there < length < _UNKNOWN_SIZE
                return f"its header promises {length} bytes of samples, the file has {there}" if cut else ""
            file.seek(length + length % 2, os.SEEK_CUR)
    return ""


def _cut_ogg(path: Path) -> str:
    """What is wrong where the last page is not marked as such, or not whole (RFC 3533); else nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2 * _OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last page is cut off"
    return "" if page[5] & 4 else "the page that ends it is not there"
