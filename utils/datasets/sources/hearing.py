"""One audio file listened to from end to end: whether it can be used, and what tells it from others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.sounds.decoding import AudioReader, Fault, UnusableAudio


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
        note: what is odd about the file though it can be used; empty: nothing is.
    """

    fault: Fault | None = None
    detail: str = ""
    rate: int = 0
    channels: int = 0
    samples: int = 0
    silent: bool = False
    digest: str = ""
    note: str = ""


def listen(path: Path) -> Heard:
    """Decode a file as it is, at its own rate, and look at every sample; never raises for what is in it."""
    try:
        if not path.stat().st_size:
            return Heard("empty", "0 bytes")
        with AudioReader(path, str(path)) as sound:
            return _hear(sound)
    except FileNotFoundError:
        return Heard("missing")
    except UnusableAudio as error:
        return Heard(error.fault, error.detail)
    except (OSError, ValueError) as error:  # no permission, a folder; a name with NUL
        return Heard("unreadable", str(error))


def _hear(sound: AudioReader) -> Heard:
    whole, first_channel = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    samples, one_sound = 0, True
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for block in sound.blocks():
        samples += len(block)
        low, high = min(low, block.min()), max(high, block.max())
        one_sound = one_sound and bool((block == block[:, :1]).all())
        first_channel.update(block[:, 0].tobytes())
        if sound.channels > 1:
            whole.update(block.tobytes())
    if not samples:
        return Heard("empty", "no samples")
    digest = (first_channel if one_sound else whole).hexdigest()
    return Heard(
        rate=sound.rate,
        channels=sound.channels,
        samples=samples,
        silent=bool(low == high),
        digest=digest,
        note=sound.note,
    )
