"""Audio files and image files to arrays."""

import io
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from model.audio_input import AUDIO_SUFFIXES, UNDECODED_AUDIO_SUFFIXES, read_audio, resample
from model.clip.image_input import (
    IMAGE_SUFFIXES,
    UNDECODED_IMAGE_SUFFIXES,
    ImagePreprocessing,
    preprocess_image,
    read_image,
)
from utils.datasets.checks.files import broken_pictures

FORMATS = {  # of libsndfile, where it is not named as the suffix
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


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_pictures_of_every_suffix_decode(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"red{suffix}"
    Image.new("RGB", (16, 16), "red").convert("L" if suffix in {".pgm", ".pbm"} else "RGB").save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (16, 16))


@pytest.mark.parametrize("suffix", sorted(UNDECODED_AUDIO_SUFFIXES))
def test_sounds_that_are_not_decoded_are_named_with_what_converts_them(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\1" * 100)
    with pytest.raises(ValueError, match=rf"x{suffix}: not decodable as audio .*; convert it, as by `ffmpeg"):
        read_audio(tmp_path / f"x{suffix}", 8000)


@pytest.mark.parametrize("suffix", sorted(UNDECODED_IMAGE_SUFFIXES))
def test_pictures_that_are_not_decoded_are_named_with_what_converts_them(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\1" * 100)
    with pytest.raises(ValueError, match=rf"x{suffix}: not decodable as an image .*; convert it, as by `mag"):
        read_image(tmp_path / f"x{suffix}")


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


def test_channels_are_kept_averaged_or_doubled(tmp_path: Path) -> None:
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
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ValueError, match=r"text\.wav: not decodable"):
        read_audio(tmp_path / "text.wav", 44100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44100)
    with pytest.raises(ValueError, match=r"empty\.wav: holds no audio"):
        read_audio(tmp_path / "empty.wav", 44100)
    with pytest.raises(ValueError, match="must be positive, got 44100 and 0 Hz"):
        resample(np.zeros((1, 8), dtype=np.float32), 44100, 0)


def test_images_are_resized_cropped_and_normalised_as_clips(tmp_path: Path) -> None:
    pixels = np.full((40, 60, 3), (255, 0, 128), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    expected = (np.array([255, 0, 128]) / 255 - [0.48145466, 0.4578275, 0.40821073]) / [
        0.26862954,
        0.26130258,
        0.27577711,
    ]
    for source in (tmp_path / "plain.png", str(tmp_path / "plain.png"), Image.fromarray(pixels), pixels):
        image = preprocess_image(source, preprocessing=ImagePreprocessing(size=(32, 32)))
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.float32
        np.testing.assert_allclose(image.mean(dim=(1, 2)).numpy(), expected, atol=1e-5)


def test_grey_images_become_rgb() -> None:
    assert read_image(np.zeros((4, 5), dtype=np.uint8)).mode == "RGB"
    assert read_image(Image.new("L", (4, 5))).mode == "RGB"


def test_unusable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such image file"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png: not decodable"):
        read_image(tmp_path / "text.png")
    for array in (np.zeros((4, 5)), np.zeros(4, dtype=np.uint8), np.zeros((3, 4, 5), dtype=np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            read_image(array)  # type: ignore[arg-type]


def wav_header(*, rate: int = 44100, channels: int = 1, data_bytes: int = 0) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels % 2**32, 2 * channels, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + data_bytes) + chunks


@pytest.mark.parametrize("rate", [0, 1, 999, 2_000_000, 2**31 - 1])
def test_a_rate_that_is_none_of_audio_is_refused(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_header(rate=rate, data_bytes=2000) + bytes(2000))
    with pytest.raises(ValueError, match=r"clip\.wav: "):
        read_audio(path, 44100)


def test_frames_that_are_only_announced_take_no_memory(tmp_path: Path) -> None:
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
    monkeypatch.setattr("model.audio_input.MOST_VALUES", 4000)
    for suffix in ("wav", "flac"):  # of which the one says how long it is
        soundfile.write(tmp_path / f"clip.{suffix}", np.zeros((2500, 2), np.int16), 44100)
        with pytest.raises(ValueError, match=rf"clip\.{suffix}: too long, 5,000 values of all channels"):
            read_audio(tmp_path / f"clip.{suffix}", 44100)
        part = read_audio(tmp_path / f"clip.{suffix}", 44100, segment=(0.01, 0.02))
        assert part.shape == (2, 441)


def test_long_files_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sounds.decoding._BLOCK", 100)
    samples = np.random.default_rng(1).integers(-32768, 32767, (1234, 2)).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", samples, 44100)
    assert np.array_equal(read_audio(tmp_path / "clip.wav", 44100), samples.T)


def test_a_clip_that_resampling_would_make_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.audio_input.MOST_VALUES", 10_000)
    soundfile.write(tmp_path / "clip.wav", np.zeros(5000, np.int16), 16000)
    with pytest.raises(
        ValueError, match=r"clip\.wav: too long, 13,781 values of all channels; at most 10,000"
    ):
        read_audio(tmp_path / "clip.wav", 44100)


def test_a_name_that_promises_no_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(bytes(range(100)))
    with pytest.raises(ValueError, match=r"clip\.raw: not decodable as audio"):
        read_audio(tmp_path / "clip.raw", 44100)


def test_grey_pictures_of_16_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    """From files of each kind, from PIL images and from bytes: 0..65535 becomes 0..255."""
    samples = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    expected = (samples / 257).round().astype(np.uint8)
    picture = Image.fromarray(samples)
    sources: list[object] = [picture, Image.fromarray(samples.astype(np.int32))]
    for suffix in ("png", "tif", "jp2", "pgm"):
        picture.save(tmp_path / f"grey.{suffix}")
        sources += [tmp_path / f"grey.{suffix}", io.BytesIO((tmp_path / f"grey.{suffix}").read_bytes())]
    for source in sources:
        image = read_image(source)  # type: ignore[arg-type]
        assert image.mode == "RGB"
        for channel in range(3):
            np.testing.assert_array_equal(np.asarray(image)[..., channel], expected, err_msg=str(source))


def test_grey_pictures_of_12_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    samples = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)
    for suffix in ("png", "tif"):
        Image.fromarray(samples).save(tmp_path / f"grey.{suffix}")
        image = read_image(tmp_path / f"grey.{suffix}")
        np.testing.assert_allclose(np.asarray(image)[..., 0], samples / 4095 * 255, atol=0.51)


@pytest.mark.parametrize("most", [65535, 4095])
def test_radiographs_whose_0_is_white_are_inverted(most: int, tmp_path: Path) -> None:
    samples = np.linspace(0, most, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(samples).save(tmp_path / "grey.tif", tiffinfo={262: 0})
    image = read_image(tmp_path / "grey.tif")
    np.testing.assert_allclose(np.asarray(image)[..., 0], 255 - samples / most * 255, atol=0.51)


def test_floating_point_pictures_in_0_to_1_are_scaled_and_in_0_to_255_taken(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(unit).save(tmp_path / "unit.tif")
    for source in (Image.fromarray(unit), tmp_path / "unit.tif", Image.fromarray(unit * 255)):
        np.testing.assert_allclose(np.asarray(read_image(source))[..., 0], unit * 255, atol=1)


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_whole_numbers_up_to_255_are_8_bits(kind: type[np.integer[Any]]) -> None:
    samples = np.arange(256, dtype=kind).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(read_image(Image.fromarray(samples)))[..., 1], samples)


def test_a_picture_whose_exif_is_damaged_is_taken_as_it_lies() -> None:
    file = io.BytesIO()
    # Two tags: the orientation, quarter of a turn; and one of a type that it cannot have.
    tags = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\x01\x53\0\x05\0\0\0\x01\0\0\0\x26"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags + bytes(4) + struct.pack(">II", 72, 1)
    Image.new("RGB", (4, 2), "red").save(file, format="jpeg", exif=exif)
    for source in (file, Image.open(file)):
        assert read_image(source).size == (4, 2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            np.array([[-5, 300]], np.int32),
            r"mode I\) are -5 to 300; the ranges 0\.\.255, 0\.\.4095 and 0\.\.65535 ",
        ),
        (np.array([[0, 70000]], np.int32), r"are 0 to 70000"),
        (np.array([[0, 3]], np.float32), r"mode F\) are 0 to 3; the ranges 0\.\.1 and 0\.\.255 are known"),
        (np.array([[-1, 1]], np.float32), r"are -1 to 1"),
        (np.array([[0, 65535]], np.float32), r"are 0 to 65535"),
        (np.array([[0, np.nan]], np.float32), r"are nan to nan"),
    ],
)
def test_pictures_of_an_unknown_range_are_refused(samples: np.ndarray, message: str, tmp_path: Path) -> None:
    Image.fromarray(samples).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif: the samples of the picture \(.*{message}"):
        read_image(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"^image: the samples of the picture \(.*{message}"):
        read_image(Image.fromarray(samples))
    (finding,) = broken_pictures(tmp_path, ["x.tif"], listed={}, title="X", progress=False)
    assert "the samples of the picture" in finding.where


def test_every_orientation_of_a_pil_image_is_turned_upright_as_that_of_a_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
        upright = np.asarray(read_image(tmp_path / "x.png"))
        assert upright.shape[:2] == ((3, 5) if orientation < 5 else (5, 3))
        with Image.open(tmp_path / "x.png") as opened:
            np.testing.assert_array_equal(np.asarray(read_image(opened)), upright)
    assert np.array_equal(upright, np.rot90(pixels))  # orientation 8


def test_tensors_are_pictures_with_channels_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for source in (tensor, tensor / 255, (tensor.double() / 255).requires_grad_()):
        np.testing.assert_array_equal(np.asarray(read_image(source)), pixels)
    for source in (tensor[0], tensor[:1]):
        np.testing.assert_array_equal(np.asarray(read_image(source))[..., 2], pixels[..., 0])
    half = np.asarray(read_image((tensor / 255).bfloat16())).astype(int)
    assert np.abs(half - pixels).max() <= 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "image is None; expected a path, a binary file, a PIL image"),
        (3.5, "image is a float; expected"),
        (io.StringIO("x"), "image is a file that was opened as text"),
        (torch.zeros(4, 5, 3), r"the tensor is torch\.float32 \[4, 5, 3\]; expected \[3, H, W\]"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), r"the tensor is torch\.int64"),
        (torch.full((3, 4, 5), -1.5), r"values are -1\.5 to -1\.5; in floating point 0\.\.1 is expected"),
        (torch.full((3, 4, 5), float("nan")), "values are nan to nan"),
        (np.zeros((4, 5), np.uint16), r"the array is uint16 \[4, 5\]; expected uint8 .*// 257"),
    ],
)
def test_what_is_no_picture_is_named(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image(source)  # type: ignore[arg-type]
