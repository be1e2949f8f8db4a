"""Reading and checking find all samples that decode, whatever the header says."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from model.audio_input import read_audio
from model.clip.image_input import read_image
from model.sounds.decoding import AudioReader, UnusableAudio
from utils.datasets.checks.files import Heard, listen

RATE = 44100
SAMPLES = 60_000
RNG = np.random.default_rng(0)
NOISE = (0.3 * RNG.standard_normal(SAMPLES) * np.where(np.arange(SAMPLES) < 20_000, 1, 1e-3)).astype(
    np.float32
)
KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MP3_DELAY = 1105  # samples before the sound, which decoders skip if there is a Xing header


@cache
def encoded(kind: str, subtype: str | None = None, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, NOISE, RATE, format=kind, subtype=subtype, **options)
    return file.getvalue()


def mp3_frames(content: bytes) -> list[bytes]:
    """Split an MPEG-1 layer III file without tags into frames (ISO 11172-3, 2.4.3.1)."""
    frames = []
    while content:
        length = 144000 * KBPS[content[2] >> 4] // RATE + (content[2] >> 1 & 1)
        frames.append(content[:length])
        content = content[length:]
    return frames


def mp3(mode: str) -> list[bytes]:
    frames = mp3_frames(encoded("MP3", bitrate_mode=mode))
    assert b"Xing" in frames[0] or b"Info" in frames[0]
    return frames


def read_and_check(path: Path, content: bytes) -> tuple[int | str, Heard]:
    """Write a file; return the number of samples read, or the error, and the result of the check."""
    path.write_bytes(content)
    heard = listen(path)
    try:
        return read_audio(path, heard.rate or RATE).shape[1], heard
    except ValueError as error:
        return str(error), heard


def require_length(content: bytes, samples: int, path: Path) -> None:
    """Check that reading the file, reading its bytes and checking it all find this number of samples."""
    read, heard = read_and_check(path, content)
    assert (read, heard.fault, heard.samples) == (samples, None, samples)
    assert read_audio(io.BytesIO(content), RATE).shape[1] == samples


ID3V2 = b"ID3\x04\x00\x00" + bytes([0, 0, 39, 8]) + bytes(5000)  # 39 * 128 + 8 bytes follow
ID3V1 = b"TAG" + b"x" * 125


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (ID3V2, b""), (b"", ID3V1), (ID3V2 * 2, ID3V1)])
def test_an_mp3_without_a_xing_header_is_read_to_its_end(
    mode: str, before: bytes, after: bytes, tmp_path: Path
) -> None:
    frames = mp3(mode)[1:]
    require_length(before + b"".join(frames) + after, 1152 * len(frames), tmp_path / "a.mp3")


def test_an_mp3_decodes_identically_with_and_without_its_xing_header(tmp_path: Path) -> None:
    frames = mp3("VARIABLE")
    (tmp_path / "a.mp3").write_bytes(b"".join(frames))
    known = read_audio(tmp_path / "a.mp3", RATE)
    libsndfile = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]
    np.testing.assert_array_equal(known[0], libsndfile * np.float32(32768))
    assert known.shape[1] == SAMPLES
    unknown = read_audio(io.BytesIO(b"".join(frames[1:])), RATE)
    np.testing.assert_allclose(unknown[:, MP3_DELAY : MP3_DELAY + SAMPLES], known, atol=1)


@pytest.mark.parametrize("cut", [1, 50, 5000])
def test_an_mp3_stream_is_read_to_its_last_complete_frame(cut: int, tmp_path: Path) -> None:
    frames = mp3("VARIABLE")[1:]
    content = b"".join(frames)[:-cut]
    ends = np.cumsum([len(frame) for frame in frames])
    require_length(content, 1152 * int((ends <= len(content)).sum()), tmp_path / "a.mp3")


def test_other_bytes_at_either_end_of_an_mp3_are_skipped(tmp_path: Path) -> None:
    frames = mp3("VARIABLE")[1:]
    content = bytes(500) + b"".join(frames) + bytes(range(1, 200)) * 20
    assert read_and_check(tmp_path / "a.mp3", content)[0] == 1152 * len(frames)


@pytest.mark.parametrize("between", [b"", ID3V2])
def test_concatenated_mp3_files_are_read_to_the_end(between: bytes, tmp_path: Path) -> None:
    content = b"".join(mp3("VARIABLE"))
    read, heard = read_and_check(tmp_path / "a.mp3", content + between + content)
    assert read == heard.samples
    assert 2 * SAMPLES <= heard.samples <= 2 * SAMPLES + 8 * 1152  # codecs pad each file


def test_a_cut_mp3_that_announces_its_length_is_truncated(tmp_path: Path) -> None:
    content = b"".join(mp3("VARIABLE"))
    read, heard = read_and_check(tmp_path / "a.mp3", content[: len(content) // 2])
    assert heard.fault == "truncated"
    assert str(read).startswith(f"{tmp_path / 'a.mp3'}: truncated; its header promises {SAMPLES} samples, ")


def test_an_mp3_that_announces_too_few_frames_is_read_to_its_end(tmp_path: Path) -> None:
    frames = mp3("VARIABLE")
    header = bytearray(frames[0])
    at = 4 + (17 if header[3] & 0xC0 == 0xC0 else 32)
    assert header[at : at + 4] == b"Xing"
    header[at + 8 : at + 12] = (len(frames) // 2).to_bytes(4, "big")
    header[at + 7] &= 0xD
    require_length(bytes(header) + b"".join(frames[1:]), 1152 * len(frames), tmp_path / "a.mp3")


def flac(announced: int) -> bytes:
    content = bytearray(encoded("FLAC"))
    content[21] = content[21] & 0xF0 | announced >> 32
    content[22:26] = (announced & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("announced", [0, 40_000, SAMPLES, 200_000, 2**36 - 1])
def test_flac_is_read_to_its_end_whatever_it_announces(announced: int, tmp_path: Path) -> None:
    require_length(flac(announced), SAMPLES, tmp_path / "a.flac")
    wrong = announced in (40_000, 200_000)
    assert listen(tmp_path / "a.flac").note == (
        f"its header promises {announced} samples, it has {SAMPLES}" if wrong else ""
    )
    np.testing.assert_array_equal(
        read_audio(tmp_path / "a.flac", RATE), read_audio(io.BytesIO(encoded("FLAC")), RATE)
    )


@pytest.mark.parametrize("tag", [bytes(1000), b"APETAGEX" + bytes(range(24)) * 2])
def test_bytes_after_a_flac_are_reported_and_no_sample_is_lost(tag: bytes, tmp_path: Path) -> None:
    require_length(flac(SAMPLES) + tag, SAMPLES, tmp_path / "a.flac")
    assert listen(tmp_path / "a.flac").note == (
        f"the bytes after its {SAMPLES} samples do not decode; they may be a tag"
    )


@pytest.mark.parametrize("announced", [0, 40_000, 2**36 - 1])
def test_a_tag_after_a_flac_of_wrong_length_does_not_remove_samples(announced: int, tmp_path: Path) -> None:
    require_length(flac(announced) + ID3V1, SAMPLES, tmp_path / "a.flac")


def test_concatenated_flac_files_are_refused(tmp_path: Path) -> None:
    read, heard = read_and_check(tmp_path / "a.flac", flac(SAMPLES) * 2)
    assert heard.fault == "unreadable"
    assert read == (
        f"{tmp_path / 'a.flac'}: several FLAC files in one; join them as `sox a.flac b.flac both.flac` does."
    )


def test_a_cut_flac_of_unknown_length_does_not_decode(tmp_path: Path) -> None:
    read, heard = read_and_check(tmp_path / "a.flac", flac(0)[:-1000])
    assert "not decodable as audio" in str(read)
    assert heard.fault == "unreadable"


def wav(riff: int, data: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    plain = encoded("WAV", "PCM_16")
    header = b"RIFF" + struct.pack("<I", riff) + plain[8:36] + before + b"data" + struct.pack("<I", data)
    return header + plain[44:] + after


SIZE = 2 * SAMPLES
LIST = b"LIST" + struct.pack("<I", 100) + bytes(range(100))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wav(SIZE + 36, SIZE), id="valid"),
        pytest.param(wav(SIZE + 44, SIZE), id="counts its own header"),
        pytest.param(wav(SIZE + 72, SIZE), id="36 too many"),
        pytest.param(wav(0, SIZE), id="RIFF 0"),
        pytest.param(wav(0, 0), id="never closed"),
        pytest.param(wav(36, 0), id="data 0"),
        pytest.param(wav(0x7F000024, 0x7F000000), id="old sox"),
        pytest.param(wav(0x7FFFF024, 0x7FFFF000), id="sox"),
        pytest.param(wav(0x80000024, 0x80000000), id="arecord"),
        pytest.param(wav(0x7FFFFFFF, 0x7FFFFFFF - 36), id="2 GiB"),
        pytest.param(wav(0xFFFFFFFF, 0xFFFFFFFF), id="ffmpeg"),
        pytest.param(wav(0xFFFFFFFF, 0xFFFFFFFF - 36), id="4 GiB"),
        pytest.param(wav(SIZE + 36, SIZE + 8), id="data 8 too many"),
        pytest.param(wav(SIZE + 36, SIZE + 36), id="data 36 too many"),
        pytest.param(wav(SIZE + 36, SIZE, after=LIST), id="chunk after"),
        pytest.param(wav(0, SIZE, after=LIST), id="RIFF 0, chunk after"),
        pytest.param(wav(0xFFFFFFFF, SIZE, after=LIST), id="RIFF unknown, chunk after"),
        pytest.param(wav(SIZE + 144, SIZE, before=LIST), id="chunk before"),
        pytest.param(wav(0xFFFFFFFF, 0xFFFFFFFF, before=LIST), id="unknown, chunk before"),
        pytest.param(wav(0, 0, before=LIST), id="never closed, chunk before"),
        pytest.param(wav(SIZE + 36, SIZE, after=b"\xff" * 1001), id="other bytes after"),
    ],
)
def test_a_wav_ends_with_its_data_chunk_or_with_the_file(content: bytes, tmp_path: Path) -> None:
    require_length(content, SAMPLES, tmp_path / "a.wav")
    samples = soundfile.read(io.BytesIO(encoded("WAV", "PCM_16")), dtype="int16")[0]
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE)[0], samples)


def test_a_wav_without_samples_is_empty_even_with_another_chunk(tmp_path: Path) -> None:
    for after in (b"", LIST):
        read, heard = read_and_check(tmp_path / "a.wav", wav(36 + len(after), 0)[:44] + after)
        assert heard.fault == "empty"
        assert "holds no audio samples" in str(read)


def field(content: bytes, name: bytes, shift: int, form: str, *values: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(name) + shift, *values)
    return bytes(changed)


@pytest.mark.parametrize(
    ("suffix", "changed"),
    [
        *[("aiff", field(encoded("AIFF"), b"SSND", 4, ">I", value)) for value in (0, 0x7F000000, 2**32 - 1)],
        *[("au", field(encoded("AU"), b".snd", 8, ">I", value)) for value in (0, 2**31, 2**32 - 1)],
        *[("caf", field(encoded("CAF"), b"data", 4, ">q", value)) for value in (-1, 0)],
        *[("rf64", field(encoded("RF64"), b"ds64", 8, "<3Q", *3 * [value])) for value in (0, 2**64 - 1)],
        *[("w64", field(encoded("W64"), b"data", 16, "<Q", value)) for value in (0, 24, 2**63 - 1)],
    ],
)
def test_other_formats_of_unknown_size_are_read_to_the_end(
    suffix: str, changed: bytes, tmp_path: Path
) -> None:
    require_length(changed, SAMPLES, tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "OGG"])
def test_reading_and_checking_both_report_truncation(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    for part in (0.3, 0.99):
        read, heard = read_and_check(path, encoded(kind)[: int(part * len(encoded(kind)))])
        assert heard.fault == "truncated"
        assert read == f"{path}: truncated; {heard.detail}."


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_all_streams_of_a_chained_ogg_file_are_read(subtype: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, NOISE, 48000, format="OGG", subtype=subtype)
    one = read_audio(io.BytesIO(file.getvalue()), 48000)
    (tmp_path / "a.ogg").write_bytes(file.getvalue() * 2)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.ogg", 48000), np.hstack([one, one]))
    assert listen(tmp_path / "a.ogg").samples == 2 * SAMPLES
    part = read_audio(tmp_path / "a.ogg", 48000, segment=(1.0, 1.5))  # across the boundary
    np.testing.assert_array_equal(part, np.hstack([one, one])[:, 48000:72000])


def test_streams_of_different_rates_in_one_file_are_refused(tmp_path: Path) -> None:
    other = io.BytesIO()
    soundfile.write(other, NOISE, 22050, format="OGG", subtype="VORBIS")
    read, heard = read_and_check(tmp_path / "a.ogg", encoded("OGG", "VORBIS") + other.getvalue())
    assert "consists of streams that differ in sample rate or channels" in str(read)
    assert heard.fault == "unreadable"


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        ("wav", lambda: encoded("WAV", "PCM_16")),
        ("wav", lambda: wav(0, 0)),
        ("wav", lambda: encoded("WAV", "GSM610")),  # libsndfile cannot seek in these
        ("wav", lambda: encoded("WAV", "MS_ADPCM")),
        ("flac", lambda: flac(SAMPLES)),
        ("flac", lambda: flac(0)),
        ("flac", lambda: flac(2000)),
        ("ogg", lambda: encoded("OGG", "VORBIS")),
        ("mp3", lambda: b"".join(mp3("VARIABLE"))),
        ("mp3", lambda: b"".join(mp3("VARIABLE")[1:])),
    ],
)
def test_a_segment_equals_that_part_of_the_complete_sound(
    suffix: str, make: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(make())
    whole = read_audio(path, RATE)
    for begin, end in [(0.0, 0.1), (0.3, 0.5), (1.0, 1.2), (1.25, None), (0.5, 60.0)]:
        part = read_audio(path, RATE, segment=(begin, end))
        expected = whole[:, round(begin * RATE) : None if end is None else round(end * RATE)]
        assert (part.shape, part.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(part, expected, atol=1)
    with pytest.raises(ValueError, match=r"holds no audio samples from 5 to 6 s"):
        read_audio(path, RATE, segment=(5.0, 6.0))


def test_a_segment_of_24_bit_paf_equals_that_part_of_the_complete_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.paf", NOISE.reshape(-1, 3), RATE, format="PAF", subtype="PCM_24")
    whole = read_audio(tmp_path / "a.paf", RATE)
    for first in (10, 601, 12_345):
        part = read_audio(tmp_path / "a.paf", RATE, segment=(first / RATE, (first + 90) / RATE))
        np.testing.assert_array_equal(part, whole[:, first : first + 90])


@pytest.mark.parametrize("peak", [1.5, 4.0, -7.9])
def test_a_float_file_may_slightly_exceed_full_scale(peak: float, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 0.1, peak]), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE)[0, 2], 32768 * peak)
    assert listen(tmp_path / "a.wav").fault is None


@pytest.mark.parametrize(("subtype", "kind"), [("FLOAT", "WAV"), ("DOUBLE", "WAV"), ("FLOAT", "AIFF")])
def test_a_float_file_in_16_bit_units_is_refused(subtype: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sound"
    soundfile.write(path, np.array([0.0, 5.0, -20000.0]), RATE, subtype=subtype, format=kind)
    read, heard = read_and_check(path, path.read_bytes())
    assert read == (
        f"{path}: has a peak of 2e+04 where full scale is 1, so it must be in another unit; scale it to "
        "-1..1 (16-bit units: divide by 32768)."
    )
    assert (heard.fault, heard.detail) == ("too loud", "has a peak of 2e+04 where full scale is 1")


def test_unusable_audio_can_be_pickled(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("WAV")[:1000])
    with pytest.raises(UnusableAudio, match="truncated") as caught:
        read_audio(tmp_path / "a.wav", RATE)
    received = pickle.loads(pickle.dumps(caught.value))
    assert (str(received), received.fault) == (str(caught.value), "truncated")
    assert isinstance(UnusableAudio("as torch makes it again"), ValueError)


PLACEHOLDERS = {
    b"": "an empty file: its download or copy failed. Fetch it again.",
    bytes(5000): "a file of zeros: its download broke off. Fetch it again.",
    b"<html>" * 100: "an HTML page: its download failed. Download the file itself.",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 441044\n": (
        "a Git LFS pointer, not the file that it stands for. Run `git lfs pull` in its repository."
    ),
}


@pytest.mark.parametrize("content", [*PLACEHOLDERS, b"word " * 100])
@pytest.mark.parametrize("suffix", ["wav", "au", "mp3", "flac"])
def test_a_placeholder_for_a_sound_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    known = PLACEHOLDERS.get(content)
    expected = "not decodable as audio" if known is None else f"is {known}"
    read, heard = read_and_check(path, content)
    assert str(read).startswith(f"{path}: {expected}")
    assert heard.fault == ("unreadable" if content else "empty")


@pytest.mark.parametrize("content", PLACEHOLDERS)
def test_a_placeholder_for_an_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        with pytest.raises(ValueError, match=r"a\.jpg") as caught:
            read_image(source, name="a.jpg")
        assert str(caught.value) == f"a.jpg: is {PLACEHOLDERS[content]}"


def test_a_failing_disk_is_not_taken_for_the_end_of_a_sound() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if 20_000 < self.tell() < len(self.getvalue()) - 128:  # where a tag may be
                raise OSError("the disk is gone")
            return super().read(size)

    with (
        AudioReader(Failing(encoded("FLAC")), "a") as sound,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        list(sound.blocks())


def test_content_is_read_from_its_start_at_any_position() -> None:
    content = io.BytesIO(encoded("WAV"))
    content.seek(0, io.SEEK_END)
    assert read_audio(content, RATE).shape[1] == SAMPLES


def test_bytes_after_the_samples_that_are_not_a_chunk_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    # A recorder killed after it had updated its header.
    read, heard = read_and_check(path, wav(SIZE + 36, SIZE // 2))
    assert (read, heard.fault) == (SAMPLES // 2, None)
    assert heard.note == f"its header promises {SIZE // 2} bytes of samples, and {SIZE // 2} follow them"
    assert not read_and_check(path, wav(SIZE + 36 + len(LIST), SIZE, after=LIST))[1].note


def test_a_failing_file_system_is_not_reported_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "x.flac").write_bytes(encoded("FLAC"))

    def fail(*_: object, **__: object) -> None:
        raise soundfile.LibsndfileError(2)  # as from a network drive: SF_ERR_SYSTEM in sndfile.h

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    with pytest.raises(OSError, match=r"x\.flac: cannot be read \(System error\)"):
        read_audio(path, RATE)
