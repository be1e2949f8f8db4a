"""Grouping the files of a shard into samples."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from toy_research.numbers import Numbers, written

from utils.datasets import Shards
from utils.shards.__main__ import main
from utils.shards.checking import index
from utils.shards.decoding import about
from utils.shards.keys import key_of_sample, sample_keys
from utils.shards.manifest import Manifest


def sound(value: int, kind: str = "wav") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.full(4, value, np.int16), 44100, format=kind.upper())
    return content.getvalue()


def picture(name: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (len(name), int(name[-1]), 0)).save(content, "PNG")
    return content.getvalue()


def tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def indexed(shard: Path) -> Shards:
    manifest = shard.with_name("manifest.jsonl")
    assert main(["index", str(shard), "--to", str(manifest), "-j", "1"]) == 0
    return Shards(str(manifest))


@pytest.mark.parametrize(
    "samples",
    [
        {"blues.00000": ["png", "wav"], "blues.00001": ["png", "wav"]},
        {"blues.00000": ["jpg"], "blues.00001": ["jpg"]},
        {"blues.00000": ["jpg"], "jazz": ["jpg", "txt"], "rock.1": ["png", "cls"]},
        {"Mix 2.0": ["txt", "wav"], "Mix 2.1": ["txt", "wav"], "Mix 2": ["txt", "wav"]},
        {"clip": ["0.jpg", "1.jpg", "flac", "json"], "other": ["0.jpg"]},
        {"a.00001": ["0.jpg", "1.jpg", "wav"]},
        {"v1.0/x": ["jpg", "mask.png"]},
        {"x": ["json", "left.wav"], "y": ["json", "meta.json"]},
        {"x": ["tokens.npy", "mean.npy"]},
        {"dog": ["json", "wav"], "dog.loud": ["json", "wav"]},
        {"000": ["flac", "json"], "001": ["flac", "json"]},
        {"Mr. Smith": ["mp3"], "Mr. Jones": ["mp3"]},
        {"x": ["wav", "wav.json"]},
    ],
)
def test_files_with_the_same_key_are_one_sample(samples: dict[str, list[str]]) -> None:
    names = {f"{key}.{suffix}": key for key, suffixes in samples.items() for suffix in suffixes}
    assert dict(zip(names, sample_keys(list(names)), strict=True)) == names
    for key, suffixes in samples.items():
        files = [f"{key}.{suffix}" for suffix in suffixes]
        assert key_of_sample(files, key) == key
        if files != ["other.0.jpg"]:  # without a json, the key is the name of the sample
            assert key_of_sample(files, "another name") == key


@pytest.mark.usefixtures("pipes")
def test_names_with_dots_are_separate_samples(tmp_path: Path) -> None:
    names = ["blues.00000", "blues.00001", "Mix 2", "Mix 2.0"]
    files = [(f"{name}.wav", sound(number)) for number, name in enumerate(names)]
    files += [(f"{name}.txt", name.encode()) for name in names]
    shards = indexed(tar(tmp_path / "a.tar", sorted(files)))
    there = Shards(f"pipe:cat {tmp_path}/a.tar", manifest=str(tmp_path / "manifest.jsonl"))
    for found in (shards, there):
        read = {found.record(at)["clip"]: sample() for at, sample in enumerate(found.stream(range(4)))}
        assert {name: (int(one.audio[0, 0]), *one[3:]) for name, one in read.items()} == {
            name: (number, name) for number, name in enumerate(names)
        }


def test_older_manifests_with_keys_up_to_the_first_dot_still_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [("a.left.wav", sound(1)), ("a.right.wav", sound(2)), ("b.left.wav", sound(3))]
    indexed(tar(tmp_path / "a.tar", files))
    about, shard = (json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines())
    assert shard["names"] == ["a.left", "a.right", "b.left"]
    older = {name: value for name, value in shard.items() if name not in ("sounds", "pictures", "labels")}
    older |= {"names": ["a", "b"], "offsets": [shard["offsets"][at] for at in (0, 2, 3)]}
    lines = [json.dumps({**about, "suffixes": ["left.wav"]}), json.dumps(older)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    shards = Shards(str(tmp_path / "manifest.jsonl"))
    assert [int(shards[at].audio[0, 0]) for at in range(2)] == [1, 3]
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "manifest.jsonl"), "-j", "1"]) == 1
    assert f"{tmp_path}/a.tar: 3 samples; the manifest says 2\n" in capsys.readouterr().out


def test_older_manifests_without_counts_still_work(tmp_path: Path) -> None:
    manifest = written(tmp_path, Numbers(30, images=True))
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines[1:]:
        assert (line.pop("sounds"), line.pop("pictures"), line.pop("labels")) == (10, 10, ["even", "odd"])
    manifest.write_text("\n".join(map(json.dumps, lines)))
    with manifest.open("rb") as content:
        assert Manifest.parse(content, source="").shards[0].sounds is None
    assert Shards(str(manifest))[7].audio is not None
    assert Shards(str(manifest)).labels() is None
    assert main(["verify", str(manifest), "-j", "1"]) == 0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.wav", "b.wav", "a.json"], "the files of a are not adjacent; pack it again with"),
        (["caf\udce9.wav"], r"the name 'caf\udce9' is not UTF-8; rename it"),
    ],
)
def test_separated_files_and_invalid_names_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], said: str
) -> None:
    tar(tmp_path / "a.tar", [(name, b"{}") for name in names])
    assert main(["index", f"{tmp_path}/a.tar", "--to", f"{tmp_path}/m.jsonl", "-j", "1"]) == 2
    assert said in capsys.readouterr().err


def test_shards_of_laion_clap_are_read_with_their_captions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [
        {"text": ["a dog barks"], "tag": ["dog"], "original_data": {"title": "x", "id": 3}},
        {"text": ["rain", "it is raining"], "tag": []},
        {"text": []},
    ]
    files: list[tuple[str, bytes]] = []
    for number, one in enumerate(said):
        files += [(f"{number}.flac", sound(number, "flac")), (f"{number}.json", json.dumps(one).encode())]
    shards = indexed(tar(tmp_path / "a.tar", files))
    found = [(int(shards[at].audio[0, 0]), *shards[at][2:]) for at in range(3)]
    assert found == [(0, [], "a dog barks"), (1, [], ("rain", "it is raining")), (2, [], None)]
    assert capsys.readouterr().err == "not read: 1 tag of json\n"


@pytest.mark.parametrize(
    ("files", "labels", "captions"),
    [
        ({"json": b'{"label": 3}'}, ["3"], []),
        ({"json": b'{"label": 3.0, "text": NaN}'}, ["3"], []),
        ({"json": b'{"label": NaN, "clip": NaN}'}, [], []),
        ({"json": b'{"label": ["dog", null, NaN, 7]}'}, ["dog", "7"], []),
        ({"json": b'{"labels": NaN, "text": [NaN, "a dog"]}'}, [], ["a dog"]),
        ({"json": b'{"labels": ["1.0"], "text": "nan"}'}, ["1.0"], []),
        ({"json": b'\xef\xbb\xbf{"label": "dog"}', "txt": b"\xef\xbb\xbfa dog\r\n"}, ["dog"], ["a dog"]),
        ({"cls": b"\xef\xbb\xbf1\n", "txt": b""}, ["rain"], []),
        ({"json": b'{"labels": "dog", "text": ["", "rain"]}'}, ["dog"], ["rain"]),
        # Apart from this: as in the data set that was written, each caption counts.
        ({"json": b'{"text": null, "captions": ["rain", "sea", "rain"]}'}, [], ["rain", "sea", "rain"]),
        ({"json": b'{"text": ""}', "txt": b"rain"}, [], ["rain"]),
    ],
)
def test_descriptions_are_read_as_in_a_table(
    files: dict[str, bytes], labels: list[str], captions: list[str]
) -> None:
    found = about({"__key__": "a", **files}, ["dog", "rain"])
    assert found == (None, labels, captions)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.json",
            b'{"label": {}}',
            r"a\.tar cannot be indexed: a: its labels are \{\}; a list of texts is exp",
        ),
        ("a.json", b"{", "a: its json is not JSON: Expecting"),
        ("a.txt", b"caf\xe9", "a: its txt is not UTF-8: "),
        ("a.cls", b"dog", "a: its cls is 'dog'; the number of a class is expected"),
    ],
)
def test_a_sample_with_an_invalid_description_is_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        index(str(tar(tmp_path / "a.tar", [(name, content)])), name="set")


def test_a_sound_and_its_separately_named_description_are_one_sample(tmp_path: Path) -> None:
    files = [
        ("a.audio.wav", sound(1, "wav")),
        ("a.meta.json", b'{"label": "dog"}'),
        ("b.left.wav", sound(2, "wav")),  # with two sounds, it is unclear which one is meant
        ("b.meta.json", b'{"label": "sea"}'),
        ("b.right.wav", sound(3, "wav")),
    ]
    shards = indexed(tar(tmp_path / "a.tar", files))
    assert [(shards.record(at)["clip"], shards[at].labels, shards[at].audio is None) for at in range(4)] == [
        ("a", ["dog"], False),
        ("b.left", [], False),
        ("b.meta", ["sea"], True),
        ("b.right", [], False),
    ]


def test_a_compressed_shard_must_be_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(tar(tmp_path / "a.tar", [("a.txt", b"dog")]).read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(packed)
    with pytest.raises(
        ValueError, match=r"a\.tar\.gz cannot be indexed: .* unpack it, for example with gunzip"
    ):
        index(str(tmp_path / "a.tar.gz"), name="set")


def test_images_with_numbers_in_their_names_are_separate_samples(tmp_path: Path) -> None:
    names = ["blues.00000", "blues.00001", "jazz.00000"]
    shards = indexed(tar(tmp_path / "a.tar", [(f"{name}.jpg", picture(name)) for name in names]))
    assert [shards.record(at)["clip"] for at in range(len(shards))] == names
    assert len({int(shards[at].image.sum()) for at in range(3)}) == 3


def test_unread_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.json", "a.m4a", "b.jpg", "b.mask.png", "b.mp4", "c.json", "c.left.wav", "c.right.wav"]
    files = [(name, b"{}" if name.endswith("json") else sound(3)) for name in names]
    shards = indexed(tar(tmp_path / "a.tar", files))
    said = capsys.readouterr()
    assert "3 samples in 1 shards; 1 sounds, 1 images" in said.out
    assert set(said.err.splitlines()) == {
        "not read: 1 m4a; convert it, for example with `ffmpeg -i x.m4a x.flac`",
        "not read: 1 mp4; convert it, for example with `ffmpeg -i x.m4a x.flac`",
        "not read: 1 mask.png",
        "not read: 1 right.wav",
    }
    with pytest.raises(
        ValueError, match=r"sample 0 of 3 in a\.tar: its m4a is not decoded; convert it, for example"
    ):
        shards[0]
