"""Faults of sound files: truncation in each format, wrong headers, equal files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.datasets.checks.files import Heard, Sound, listen, suspicious, too_long

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 30000)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["wav", "ogg", "flac"])
def test_a_file_cut_anywhere_cannot_be_used(form: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    soundfile.write(path, NOISE, 44100)
    assert listen(path).fault is None
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert listen(path).fault in ("truncated", "unreadable", "empty")


def test_an_ogg_file_without_its_last_page_is_read_with_a_note(tmp_path: Path) -> None:
    """Stream recorders write such files; a truncated file rarely ends between two pages."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.tile(NOISE, 10), 44100)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    heard = listen(path)
    assert heard.fault is None
    assert heard.note == "its last page is missing: it was recorded from a stream, or cut"
    assert 0.9 * 300_000 < heard.samples < 300_000


def test_a_header_that_announces_too_many_samples_is_a_warning(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", NOISE, 44100)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[22:26] = (40_000).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    sound = Sound("a.flac", "fold 1", "dog")
    (finding,) = suspicious(44100, {sound: listen(tmp_path / "a.flac")})
    assert (finding.severity, finding.where) == (
        "warning",
        "a.flac (its header promises 40000 samples, it has 30000)",
    )


def test_a_sound_too_long_for_a_run_is_an_error() -> None:
    def found(mono: bool | None, **known: int) -> list[str]:
        heard = Heard(**{"rate": 44100, "channels": 2, **known})  # type: ignore[arg-type]
        return [one.where for one in too_long(44100, mono, {Sound("a.wav", "fold 1", "dog"): heard})]

    assert found(None, samples=2**28) == []
    assert found(None, samples=2**28 + 1) == ["a.wav (1.7 h)"]
    assert found(None, samples=2**27, rate=22050) == []
    assert found(None, samples=2**27 + 1, rate=22050) == ["a.wav (1.7 h)"]
    assert found(True, samples=2**27 + 1, rate=22050) == []


def test_a_wav_file_of_unknown_length_is_complete(tmp_path: Path) -> None:
    """Programs that stream write such files."""
    path = tmp_path / "a.wav"
    soundfile.write(path, NOISE, 44100)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert listen(path).fault is None


@pytest.mark.parametrize("name", ["a.raw", "a\0.wav", "a" * 300])
def test_a_name_that_cannot_be_opened_is_a_finding(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"samples")
    assert listen(tmp_path / name).fault == "unreadable"


def test_listening_finds_rate_channels_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([NOISE, -NOISE], axis=1), 32000)
    heard = listen(path)
    assert (heard.fault, heard.rate, heard.channels, heard.samples) == (None, 32000, 2, 30000)
    assert not heard.silent


def test_equal_sounds_have_equal_digests_in_any_format(tmp_path: Path) -> None:
    sound = np.round(np.tile(NOISE, 20) * 32768) / 32768  # longer than the block that is read at a time
    paths = [tmp_path / name for name in ("a.wav", "b.flac", "c.wav", "d.wav", "e.wav")]
    soundfile.write(paths[0], sound, 44100)
    soundfile.write(paths[1], sound, 44100)
    soundfile.write(paths[2], np.stack([sound, sound], axis=1), 44100, subtype="FLOAT")
    soundfile.write(paths[3], np.stack([sound, -sound], axis=1), 44100)
    soundfile.write(paths[4], np.append(sound[:-1], 0.9), 44100)
    digests = [listen(path).digest for path in paths]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3
