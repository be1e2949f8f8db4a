"""Shards contain every kind of sound and image that a data set reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from model.audio_input import AUDIO_SUFFIXES
from model.clip.image_input import IMAGE_SUFFIXES
from utils.datasets import Shards
from utils.datasets.own_data import Table
from utils.datasets.sample import SampleFiles
from utils.shards.__main__ import main
from utils.shards.writing import encode

FORMATS = {".opus": "OGG", ".oga": "OGG", ".aif": "AIFF", ".snd": "AU", ".sph": "NIST", ".wave": "WAV"}
FORMATS |= {".odd": "FLAC", "": "WAVEX"}
SOUNDS = sorted(AUDIO_SUFFIXES - {".bwf", ".aifc", ".mp2"})  # files of other suffixes use the same container
PICTURES = sorted(IMAGE_SUFFIXES - {".pgm", ".pbm"})


def write_sound(path: Path, kind: str) -> None:
    tone = 0.3 * np.sin(np.arange(2000) / 10)
    soundfile.write(path, tone, 8000, format=kind, subtype="OPUS" if path.suffix == ".opus" else None)


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Make a table with a sound of every suffix, then an image of every suffix."""
    folder = tmp_path_factory.mktemp("kinds")
    lines = ["file,image,label"]
    for suffix in [*SOUNDS, ".WAV", ".odd", ""]:
        write_sound(folder / f"x{suffix}", FORMATS.get(suffix, suffix[1:].upper()))
        lines.append(f"x{suffix},,dog")
    for suffix in [*PICTURES, ".JPG"]:
        Image.new("RGB", (8, 8), "red").save(folder / f"p{suffix}")
        lines.append(f",p{suffix},cat")
    (folder / "p.png").rename(folder / "picture")
    (folder / "t.csv").write_text("\n".join(lines).replace("p.png", "picture"))
    return Table(folder / "t.csv", cache=False)


def make(table: Path, to: Path, *flags: str) -> None:
    args = json.dumps({"table": str(table), "cache": False})
    words = ["make", "--to", str(to), "--dataset", "utils.datasets.Table", "--args", args, "-j", "1"]
    assert main([*words, *flags]) == 0


def test_every_sample_keeps_its_sound_or_its_image(
    every_kind: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(every_kind.root / "t.csv", tmp_path, "--in-order")
    counted = f"{len(SOUNDS) + 3} sounds, {len(PICTURES) + 1} images"
    assert counted in capsys.readouterr().out
    shards = Shards(str(tmp_path / "manifest.jsonl"))
    assert len(shards) == len(every_kind)
    for index in range(len(shards)):
        expected, found = every_kind[index], shards[index]
        assert shards.record(index) == every_kind.record(index)
        assert np.array_equal(found.audio, expected.audio) if expected.audio is not None else not found.audio
        assert np.array_equal(found.image, expected.image) if expected.image is not None else not found.image
    assert main(["verify", str(tmp_path / "manifest.jsonl"), "-j", "1", "--decode"]) == 0
    assert counted in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            SampleFiles(Path("x.m4a")),
            r"x\.m4a is not a sound that a shard can keep; convert it, for example with `ffmpeg",
        ),
        (SampleFiles(Path("x.raw")), r"x\.raw is not a sound that a shard can keep; convert it"),
        (SampleFiles(None, (Path("x.heic"),)), r"x\.heic is not an image that a shard can keep; convert it"),
    ],
)
def test_files_that_cannot_be_kept_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: SampleFiles, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (*filter(None, [files.audio]), *files.images):
        path.write_bytes(b"\0" * 100)

    class One:
        def record(self, _: int) -> dict[str, Any]:
            return {"clip": "one"}

        def files(self, _: int) -> SampleFiles:
            return files

    with pytest.raises(ValueError, match=said):
        encode(One(), 0, audio="keep")


@pytest.mark.parametrize("what", ["sounds", "pictures"])
def test_verify_compares_counts_with_the_manifest(
    every_kind: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    make(every_kind.root / "t.csv", tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    there = lines[1][what]
    lines[1][what] += 2
    manifest.write_text("\n".join(map(json.dumps, lines)))
    capsys.readouterr()
    assert main(["verify", str(manifest), "-j", "1"]) == 1
    shown = what.replace("pictures", "images")  # the manifest calls images "pictures"
    said = f"{tmp_path}/000000.tar: {there} {shown}; the manifest says {there + 2}\n"
    assert capsys.readouterr().out.startswith(said)


def test_files_without_a_known_suffix_are_kept_by_format(every_kind: Table) -> None:
    kinds = {
        every_kind.entries[index].audio: set(encode(every_kind, index, audio="keep")) - {"__key__", "json"}
        for index in range(len(every_kind))
    }
    assert (kinds["x"], kinds["x.odd"], kinds["x.WAV"]) == ({"wav"}, {"flac"}, {"wav"})
    picture = next(i for i in range(len(every_kind)) if every_kind.entries[i].images == ("picture",))
    content = encode(every_kind, picture, audio="keep")
    assert Image.open(io.BytesIO(content["0.png"])).format == "PNG"


def test_files_that_a_folder_of_classes_omits_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/a/1.wav", "train/a/2.m4a", "test/a/3.wav", "valid/a/4.wav"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        write_sound(tmp_path / "own" / name, "WAV")
    make(tmp_path / "own", tmp_path / "set")
    said = capsys.readouterr()
    assert "1 samples in 1 shards" in said.out
    assert said.err.splitlines() == [
        f"{tmp_path}/own: Not read: 1 .m4a (convert it, for example with `ffmpeg -i x.m4a x.flac`).",
        "held out, so not written: test, valid. With a protocol (-c) both splits are written.",
    ]
