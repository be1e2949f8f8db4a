"""Image files, arrays and tensors become RGB images and the input of an image tower."""

import errno
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.clip.image_input import (
    IMAGE_SUFFIXES,
    UNDECODED_IMAGE_SUFFIXES,
    ImagePreprocessing,
    preprocess_image,
    read_image,
)
from utils.datasets.checks.files import broken_pictures


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_images_of_every_suffix_decode(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"red{suffix}"
    Image.new("RGB", (16, 16), "red").convert("L" if suffix in {".pgm", ".pbm"} else "RGB").save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (16, 16))


@pytest.mark.parametrize("suffix", sorted(UNDECODED_IMAGE_SUFFIXES))
def test_undecoded_images_are_named_with_a_converter(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\1" * 100)
    with pytest.raises(
        ValueError, match=rf"x{suffix}: not decodable as an image .*; convert it, for example with `mag"
    ):
        read_image(tmp_path / f"x{suffix}")


def test_images_are_resized_cropped_and_normalised_as_for_clip(tmp_path: Path) -> None:
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
    with pytest.raises(IsADirectoryError, match=r"is a folder; pass its files, such as sorted"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png: not decodable"):
        read_image(tmp_path / "text.png")
    for array in (np.zeros((4, 5)), np.zeros(4, dtype=np.uint8), np.zeros((3, 4, 5), dtype=np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            read_image(array)  # type: ignore[arg-type]


def test_16_bit_grey_images_are_scaled_by_their_range(tmp_path: Path) -> None:
    """The range 0..65535 becomes 0..255 in files, bytes and PIL images."""
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


def test_12_bit_grey_images_are_scaled_by_their_range(tmp_path: Path) -> None:
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


def test_floating_point_images_in_0_to_1_and_0_to_255_are_read(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(unit).save(tmp_path / "unit.tif")
    for source in (Image.fromarray(unit), tmp_path / "unit.tif", Image.fromarray(unit * 255)):
        np.testing.assert_allclose(np.asarray(read_image(source))[..., 0], unit * 255, atol=1)


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_integers_up_to_255_are_not_scaled(kind: type[np.integer[Any]]) -> None:
    samples = np.arange(256, dtype=kind).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(read_image(Image.fromarray(samples)))[..., 1], samples)


def test_an_image_with_damaged_exif_data_keeps_its_orientation() -> None:
    file = io.BytesIO()
    # Two tags: the orientation (a quarter turn), and one with an invalid type.
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
            r"mode I\) are -5 to 300; the known ranges are 0\.\.255, 0\.\.4095 and 0\.\.65535",
        ),
        (np.array([[0, 70000]], np.int32), r"are 0 to 70000"),
        (np.array([[0, 3]], np.float32), r"mode F\) are 0 to 3; the known ranges are 0\.\.1 and 0\.\.255"),
        (np.array([[-1, 1]], np.float32), r"are -1 to 1"),
        (np.array([[0, 65535]], np.float32), r"are 0 to 65535"),
        (np.array([[0, np.nan]], np.float32), r"are nan to nan"),
    ],
)
def test_images_with_an_unknown_range_are_refused(samples: np.ndarray, message: str, tmp_path: Path) -> None:
    Image.fromarray(samples).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif: the samples of the image \(.*{message}"):
        read_image(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"^image: the samples of the image \(.*{message}"):
        read_image(Image.fromarray(samples))
    (finding,) = broken_pictures(tmp_path, ["x.tif"], listed={}, title="X", progress=False)
    assert "the samples of the image" in finding.where


def test_pil_images_of_every_orientation_are_turned_upright_like_files(tmp_path: Path) -> None:
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


def test_tensors_are_images_with_channels_first() -> None:
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
        (torch.full((3, 4, 5), -1.5), r"values are -1\.5 to -1\.5; expected 0\.\.1 in floating point"),
        (torch.full((3, 4, 5), float("nan")), "values are nan to nan"),
        (np.zeros((4, 5), np.uint16), r"the array is uint16 \[4, 5\]; expected uint8 .*// 257"),
    ],
)
def test_inputs_other_than_images_are_named(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image(source)  # type: ignore[arg-type]


def test_an_error_of_the_system_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.png'"):
        read_image(tmp_path / "a.png")
