"""Audio files are decoded to arrays."""

import io
import os
import struct
import tracemalloc
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from model.audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES, read_audio, resample

FORMATS = {  # libsndfile's names that differ from the suffix
    **dict.fromkeys((".wave", ".bwf"), "WAV"),
    **dict.fromkeys((".oga", ".opus"), "OGG"),
    **dict.fromkeys((".aif", ".aifc"), "AIFF"),
    **{".snd": "AU", ".sph": "NIST", ".mp2": "MP3"},
}


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"), [("wav", "PCM_16", 1), ("flac", "PCM_16", 1), ("ogg", "VORBIS", 700)]
)
def test_files_decode_to_16_bit_units(suffix: str, subtype: str, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(0.5, 44100), 44100, subtype=subtype)
    audio = read_audio(path, 44100)
    assert audio.dtype == np.float32
    assert audio.shape == (1, 22050)
    assert np.abs(audio[0] - 32768 * tone(0.5, 44100)).max() <= tolerance


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_sounds_of_every_suffix_decode_from_files_and_from_bytes(suffix: str, tmp_path: Path) -> None:
    path, rate = tmp_path / f"tone{suffix}", 8000
    subtype = "OPUS" if suffix == ".opus" else None
    container = FORMATS.get(suffix, suffix[1:].upper())
    soundfile.write(path, tone(0.5, rate), rate, subtype=subtype, format=container)
    audio = read_audio(path, rate)
    np.testing.assert_array_equal(audio, read_audio(io.BytesIO(path.read_bytes()), rate))
    assert audio.shape[1] >= 4000
    assert 32768 * 0.4 < np.abs(audio).max() < 32768 * 0.6


@pytest.mark.parametrize("suffix", sorted(UNDECODED_AUDIO_SUFFIXES))
def test_undecoded_sounds_are_named_with_a_converter(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\1" * 100)
    with pytest.raises(
        ValueError, match=rf"x{suffix}: not decodable as audio .*; convert it, for example with `ffmpeg"
    ):
        read_audio(tmp_path / f"x{suffix}", 8000)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_sound_whose_name_is_not_utf8_decodes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(0.5, 8000), 8000)
    expected = read_audio(tmp_path / "tone.wav", 8000)
    odd = (tmp_path / "tone.wav").rename(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    np.testing.assert_array_equal(read_audio(odd, 8000), expected)


def test_files_are_resampled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(1.0, 22050), 22050, subtype="FLOAT")
    audio = read_audio(tmp_path / "tone.wav", 44100)
    assert audio.shape == (1, 44100)
    middle = slice(2000, -2000)
    np.testing.assert_allclose(audio[0, middle], 32768 * tone(1.0, 44100)[middle], atol=20)


@pytest.mark.parametrize("shape", [(1, 1), (2, 12345), (2, 3, 501)])
@pytest.mark.parametrize(
    ("source", "target"), [(22050, 44100), (48000, 44100), (192000, 44100), (11025.5, 44100)]
)
def test_resampling_equals_that_of_librosa(shape: tuple[int, ...], source: float, target: float) -> None:
    waveform = np.random.default_rng(0).normal(0, 1e4, shape).astype(np.float32)
    expected = librosa.resample(waveform, orig_sr=source, target_sr=target, res_type="soxr_hq")
    resampled = resample(waveform, source, target)
    assert resampled.dtype == np.float32
    np.testing.assert_array_equal(resampled, expected)


def test_channels_are_kept_averaged_or_duplicated(tmp_path: Path) -> None:
    left, right = tone(0.1, 8000), tone(0.1, 8000, 1000.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", left, 8000, subtype="FLOAT")
    both = 32768 * np.stack([left, right])
    np.testing.assert_allclose(read_audio(tmp_path / "stereo.wav", 8000), both, atol=1e-2)
    np.testing.assert_allclose(read_audio(tmp_path / "stereo.wav", 8000, mono=False), both, atol=1e-2)
    np.testing.assert_allclose(
        read_audio(tmp_path / "stereo.wav", 8000, mono=True), both.mean(axis=0, keepdims=True), atol=1e-2
    )
    assert read_audio(tmp_path / "mono.wav", 8000).shape == (1, 800)
    doubled = read_audio(tmp_path / "mono.wav", 8000, mono=False)
    np.testing.assert_allclose(doubled, both[[0, 0]], atol=1e-2)


def test_unusable_audio_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav: no such audio file"):
        read_audio(tmp_path / "nothing.wav", 44100)
    with pytest.raises(IsADirectoryError, match=r"is a folder; pass its files, such as sorted"):
        read_audio(tmp_path, 44100)
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ValueError, match=r"text\.wav: not decodable"):
        read_audio(tmp_path / "text.wav", 44100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44100)
    with pytest.raises(ValueError, match=r"empty\.wav: holds no audio"):
        read_audio(tmp_path / "empty.wav", 44100)
    with pytest.raises(ValueError, match="must be positive, got 44100 and 0 Hz"):
        resample(np.zeros((1, 8), dtype=np.float32), 44100, 0)


def wav_header(*, rate: int = 44100, channels: int = 1, data_bytes: int = 0) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels % 2**32, 2 * channels, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + data_bytes) + chunks


@pytest.mark.parametrize("rate", [0, 1, 999, 2_000_000, 2**31 - 1])
def test_an_impossible_sample_rate_is_refused(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_header(rate=rate, data_bytes=2000) + bytes(2000))
    with pytest.raises(ValueError, match=r"clip\.wav: "):
        read_audio(path, 44100)


def test_announced_but_missing_frames_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.zeros(5000, np.int16), 44100)
    content = bytearray(path.read_bytes())
    for frames in (2**36 - 1, 2**28):
        content[21] = content[21] & 0xF0 | frames >> 32
        content[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(content)
        tracemalloc.start()
        try:
            assert read_audio(path, 44100).shape == (1, 5000)
            assert tracemalloc.get_traced_memory()[1] < 50_000_000
        finally:
            tracemalloc.stop()


def test_a_sound_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.audio_input.MAX_VALUES", 4000)
    for suffix in ("wav", "flac"):  # only one of the two files states its length
        soundfile.write(tmp_path / f"clip.{suffix}", np.zeros((2500, 2), np.int16), 44100)
        with pytest.raises(ValueError, match=rf"clip\.{suffix}: too long, 5,000 values over all channels"):
            read_audio(tmp_path / f"clip.{suffix}", 44100)
        part = read_audio(tmp_path / f"clip.{suffix}", 44100, segment=(0.01, 0.02))
        assert part.shape == (2, 441)


def test_long_files_are_read_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sounds.decoding._BLOCK", 100)
    samples = np.random.default_rng(1).integers(-32768, 32767, (1234, 2)).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", samples, 44100)
    assert np.array_equal(read_audio(tmp_path / "clip.wav", 44100), samples.T)


def test_a_clip_that_resampling_would_make_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.audio_input.MAX_VALUES", 10_000)
    soundfile.write(tmp_path / "clip.wav", np.zeros(5000, np.int16), 16000)
    with pytest.raises(
        ValueError, match=r"clip\.wav: too long, 13,781 values over all channels; the limit is 10,000"
    ):
        read_audio(tmp_path / "clip.wav", 44100)


def test_a_suffix_of_headerless_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(bytes(range(100)))
    with pytest.raises(ValueError, match=r"clip\.raw: not decodable as audio"):
        read_audio(tmp_path / "clip.raw", 44100)
