"""Audio files with mutated headers: each decodes or causes an error that names the file."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from model.audio_input import read_audio
from utils.datasets.checks.files import listen

if TYPE_CHECKING:
    from tests.fuzz.conftest import TryCases

# Sizes, rates and counts in a header that are dangerous if trusted.
EXTREMES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**36 - 1, 2**63 - 1, 2**64 - 1]
HEADER_BYTES = 120


def made(kind: str, subtype: str, *, rate: int = 44100, channels: int = 1) -> bytes:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (3000, channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


FILES = {
    "clip.wav": made("WAV", "PCM_16"),
    "stereo.wav": made("WAV", "FLOAT", channels=2, rate=48000),
    "adpcm.wav": made("WAV", "MS_ADPCM"),
    "extensible.wav": made("WAVEX", "PCM_24", channels=2),
    "clip.ogg": made("OGG", "VORBIS"),
    "opus.ogg": made("OGG", "OPUS", rate=48000),
    "clip.flac": made("FLAC", "PCM_16"),
    "clip.mp3": made("MP3", "MPEG_LAYER_III"),
    "stream.mp3": made("MP3", "MPEG_LAYER_III")[417:],  # without the frame that says its length
    "clip.w64": made("W64", "PCM_16"),
    "clip.aiff": made("AIFF", "PCM_16"),
    "clip.caf": made("CAF", "PCM_16"),
}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Change a header: bits, fields, its length, or where it ends."""
    found = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(found), HEADER_BYTES) or 1)
        kind = rng.randrange(6)
        if kind <= 1:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(EXTREMES) % 256**width
            found[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 2:
            found[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 3:
            del found[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        else:
            del found[rng.randrange(len(found) + 1) :]
    return bytes(found)


@pytest.mark.parametrize("cases", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_mutated_header_is_an_error_or_audio(
    try_cases: TryCases, tmp_path_factory: pytest.TempPathFactory, cases: int
) -> None:
    folder = tmp_path_factory.mktemp("clips")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
        read_audio(folder / name, 22050)  # imports what takes memory

    def case(rng: random.Random) -> bool:
        name = rng.choice(list(FILES))
        (folder / name).write_bytes(mutated(FILES[name], rng))
        return check(folder / name, rng.choice((22050, 44100, 48000)))

    try_cases(cases, case)


def check(path: Path, rate: int) -> bool:
    heard = listen(path)
    try:
        audio = read_audio(path, rate)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        assert heard.fault is not None or "too long" in str(error)
        return False
    assert heard.fault is None
    assert audio.dtype == np.float32
    assert audio.ndim == 2
    assert audio.size
    return True
