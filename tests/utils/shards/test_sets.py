"""Addresses, manifests, splits and indexes of sets of shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from toy_research.numbers import FOLDS, Numbers, written

from tests.utils.shards.test_keys import tar
from utils.datasets import Shards
from utils.shards import reading
from utils.shards.__main__ import main
from utils.shards.making import Options, make
from utils.shards.manifest import Manifest, SetEntry, ShardEntry, digest
from utils.shards.reading import beside, expand, file_name, find, local_path

ENTRY: dict[str, Any] = {
    "file": "a.tar",
    "size_bytes": 4096,
    "sha256": "0" * 64,
    "fold": None,
    "split": None,
    "offsets": [0, 1024, 2048],
    "names": ["one", "two"],
}
ABOUT: dict[str, Any] = {"format": "shards, 1", "name": "Some", "class_names": ["x"]}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("numbers"), Numbers(30)).parent


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(written(tmp_path_factory.mktemp("folded"), Numbers(40, folds=True), samples=5))


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halved")
    make({"train": Numbers(20), "test": Numbers(5)}, folder, Options(samples=10), made_from={})
    return folder


# Addresses


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("x/{00..02}.tar", ["x/00.tar", "x/01.tar", "x/02.tar"]),
        (["{a,b}.tar", "c.tar"], ["a.tar", "b.tar", "c.tar"]),
    ],
)
def test_patterns_are_expanded(urls: Any, expected: list[str]) -> None:
    assert expand(urls) == expected


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([], "an address, a pattern of addresses or a list of these is expected"),
        ("", "an address, a pattern of addresses or a list of these is expected"),
        ("{0..99999999999}.tar", "more than 1,000,000 shards"),
        ("{0..999}{0..9999}.tar", "more than 1,000,000 shards"),
        ("{a,b.tar", "braces are unbalanced"),
        ("s3://bucket/a.tar", r"For the scheme s3, write pipe: and a command that writes"),
        ("pipe:cat a.tar", "a command that would be run.*AUDIOCLIP_PIPES"),
    ],
)
def test_unsupported_addresses_are_refused(urls: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        expand(urls)


def test_commands_need_permission(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"pipe:touch {tmp_path}/ran; cat {numbers}/000000.tar"
    with pytest.raises(ValueError, match="a command that would be run"):
        Shards(url, manifest=str(numbers / "manifest.jsonl"))
    entry = find(str(numbers / "manifest.jsonl")).shards[0][1]
    read = next(reading.RemoteShard(url, entry).read([0]))
    with pytest.raises(ValueError, match="a command that would be run"):
        read()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(reading.PIPES_VARIABLE, "1")
    assert len(Shards(url, manifest=str(numbers / "manifest.jsonl"))) == 10


@pytest.mark.parametrize(
    ("url", "name", "path", "manifest"),
    [
        ("x/a.tar", "a.tar", "x/a.tar", "x/manifest.jsonl"),
        ("a.tar", "a.tar", "a.tar", "manifest.jsonl"),
        ("file:/x/a.tar", "a.tar", "/x/a.tar", "file:/x/manifest.jsonl"),
        ("https://h/x/a.tar?key=1", "a.tar", None, "https://h/x/manifest.jsonl"),
        ("pipe:aws s3 cp s3://b/x/a.tar -", "a.tar", None, None),
        ("pipe:cat 'x/a.tar' | unpack", "a.tar", None, None),
    ],
)
def test_addresses_have_a_name_and_a_folder(
    url: str, name: str, path: str | None, manifest: str | None
) -> None:
    assert file_name(url) == name
    assert local_path(url) == (None if path is None else Path(path))
    assert beside(url, "manifest.jsonl") == manifest


# Manifests


def parse(*lines: Any) -> Manifest:
    content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return Manifest.parse(io.BytesIO(content.encode()), source="there")


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    manifest = parse(ABOUT, ENTRY, {**ENTRY, "file": "b.tar", "fold": 3})
    manifest.write(tmp_path / "m.jsonl")
    again = Manifest.parse(io.BytesIO((tmp_path / "m.jsonl").read_bytes()), source="there")
    assert again.about == manifest.about
    assert [one.to_json() for one in again.shards] == [ENTRY, {**ENTRY, "file": "b.tar", "fold": 3}]
    assert len(again) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "it lists no shard"),
        ([ABOUT], "it lists no shard"),
        ([{**ABOUT, "format": "shards, 9"}], 'line 1 .*format: "shards, 1" is expected'),
        ([ABOUT, "{"], "line 2 .*Expecting"),
        ([ABOUT, "[" * 100_000], "line 2 "),
        ([ABOUT, {**ENTRY, "file": "../a.tar"}], "file: a file name without a folder is expected"),
        ([ABOUT, {**ENTRY, "sha256": "x"}], "sha256"),
        ([ABOUT, {**ENTRY, "names": ["one"]}], "1 names and 3 offsets"),
        ([ABOUT, {**ENTRY, "names": [], "offsets": []}], "names: it: List should have at least 1 item"),
        ([ABOUT, {**ENTRY, "names": ["a", "b\nc"]}], "names: 1: String should match pattern"),
        ([ABOUT, {**ENTRY, "offsets": [0, 1024, 1024]}], "offsets do not ascend"),
        ([ABOUT, {**ENTRY, "offsets": [0, 1000, 2048]}], "offsets do not ascend"),
        ([ABOUT, {**ENTRY, "offsets": [0, 1024, 8192]}], "to at most 4096"),
        ([ABOUT, {**ENTRY, "offsets": [-512, 1024, 2048]}], "greater than or equal to 0"),
        ([ABOUT, {**ENTRY, "offsets": [0, 1024, 2**70]}], "less than"),
        ([ABOUT, {**ENTRY, "more": 1}], "more: Extra inputs"),
        ([ABOUT, ENTRY, ENTRY], "it lists 1 files twice"),
    ],
)
def test_an_invalid_line_of_a_manifest_is_named(lines: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(*lines)


def test_a_missing_manifest_is_an_error_with_a_remedy(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes((numbers / "000000.tar").read_bytes())
    with pytest.raises(
        FileNotFoundError, match=r"manifest\.jsonl does not exist.*python -m utils\.shards inde"
    ):
        Shards(str(tmp_path / "000000.tar"))
    with pytest.raises(ValueError, match=r"shards that no manifest lists: .*000009\.tar"):
        Shards(str(numbers / "000009.tar"))
    with pytest.raises(ValueError, match="lists a shard twice"):
        Shards([str(numbers / "000000.tar"), str(numbers / "manifest.jsonl")])


@pytest.mark.usefixtures("pipes")
def test_a_command_has_no_folder_for_a_manifest() -> None:
    with pytest.raises(ValueError, match=r"a command \(pipe:\) has no folder to look in; set manifest"):
        Shards("pipe:cat a.tar")


def test_sets_can_be_combined(numbers: Path, tmp_path: Path) -> None:
    other = written(tmp_path, Numbers(10, images=True), samples=5)
    (tmp_path / "000000.tar").rename(tmp_path / "other.tar")
    other.write_text(other.read_text().replace("000000.tar", "other.tar"))
    both = Shards([str(numbers / "manifest.jsonl"), str(tmp_path / "manifest.jsonl")])
    assert len(both) == 40
    assert both.results_name == "Numbers"
    assert both.class_names == ["even", "odd"]
    assert both[39].image is not None
    assert both[0].image is None


def test_two_shards_with_one_name_are_refused(numbers: Path, tmp_path: Path) -> None:
    other = written(tmp_path, Numbers(10, images=True))
    manifests = [str(numbers / "manifest.jsonl"), str(other)]
    with pytest.raises(ValueError, match=r"000000\.tar is in two manifests, with different contents"):
        Shards(str(numbers / "000000.tar"), manifest=manifests)


# Splits


def clips(shards: Shards) -> set[int]:
    return {int(str(shards.record(index)["clip"]).split()[1]) for index in range(len(shards))}


def test_folds_are_held_out(folded: str) -> None:
    training, held_out = (Shards(folded, train=train, fold=2) for train in (True, False))
    assert clips(held_out) == {number for number in range(40) if number % FOLDS + 1 == 2}
    assert clips(training) == set(range(40)) - clips(held_out)
    assert training.held_out == held_out.held_out == (2,)
    assert training.folds == (1, 2, 3, 4)
    assert held_out.record(0)["fold"] == 2
    assert clips(Shards(folded, train=False, fold=[1, 4])) == {n for n in range(40) if n % FOLDS in (0, 3)}
    both = [Shards(folded, train=train) for train in (True, False)]
    assert clips(both[0]) == clips(both[1]) == set(range(40))
    assert (both[0].held_out, both[0].folds) == ((), (1, 2, 3, 4))
    assert training.digest != held_out.digest


def test_the_data_set_decides_the_splits(halved: Path) -> None:
    manifest = str(halved / "manifest.jsonl")
    assert len(Shards(manifest, train=True)) == 20
    assert len(Shards(manifest, train=False)) == 5
    assert len(Shards(manifest)) == 25
    assert len(Shards(str(halved / "test-000000.tar"))) == 5
    with pytest.raises(ValueError, match=r"urls has only shards of test"):
        Shards(str(halved / "test-000000.tar"), train=True)


def test_part_of_a_set_has_a_different_name_in_results(halved: Path) -> None:
    assert Shards(str(halved / "manifest.jsonl"), train=True).results_name == "Numbers"
    part = Shards(str(halved / "train-{000000..000001}.tar"))
    assert part.results_name == "part of Numbers (20 clips)"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"sample_rate": 0}, "sample_rate is 0; an integer from 1 to 1000000, in Hz, is expected"),
        ({"train": "false"}, "train is 'false'; true or false is expected"),
        ({"mono": 1}, "mono is 1; true or false is expected"),
        ({"block": 0}, "block is 0; 1 or more is expected"),
        ({"lanes": 1.5}, "lanes is 1.5; 1 or more is expected"),
        ({"frames": "first"}, "frames is 'first'; .central. or .all. is expected"),
        ({"fold": 2}, "fold is 2, but train, which chooses"),
        ({"fold": 9, "train": True}, r"fold is 9; the folds of these shards: 1, 2, 3, 4\."),
        ({"fold": "1", "train": True}, "fold is '1'; a fold's number, a list of them, or null is expected"),
        ({"fold": [1, 2, 3, 4], "train": True}, "holds out every shard and leaves none to train on"),
    ],
)
def test_wrong_arguments_are_errors(folded: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shards(folded, **args)


def test_no_fold_of_a_set_without_folds_can_be_held_out(numbers: Path) -> None:
    with pytest.raises(ValueError, match=r"fold is 1; the folds of these shards: none\."):
        Shards(str(numbers / "manifest.jsonl"), train=True, fold=1)


def test_single_samples_are_indexed_like_a_list(numbers: Path) -> None:
    shards = Shards(str(numbers / "manifest.jsonl"))
    assert shards[-1].audio[0, 0] == shards[29].audio[0, 0]
    for index in (30, -31):
        with pytest.raises(IndexError, match=f"there is no sample {index} of 30"):
            shards[index]


def test_an_epoch_reads_each_sample_once_shard_by_shard(numbers: Path) -> None:
    shards = Shards(str(numbers / "manifest.jsonl"), block=4)
    assert list(shards.epoch_order(None)) == list(range(30))
    first, same, other = (list(shards.epoch_order(key)) for key in (1, 1, 2))
    assert first == same != other
    assert sorted(first) == list(range(30))
    pieces = [first[start : start + 10] for start in (0, 10, 20)]
    assert sorted(piece[0] // 10 for piece in pieces) == [0, 1, 2]
    for piece in pieces:
        assert len({index // 10 for index in piece}) == 1
        blocks = [sorted(index % 10 for index in piece[at : at + 4]) for at in (0, 4, 8)]
        assert blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# Checks


def test_the_check_finds_missing_shards_and_wrong_sizes(tmp_path: Path) -> None:
    manifest = str(written(tmp_path, Numbers(30)))
    sound = Shards.inspect_data(urls=manifest)
    assert (sound.findings, sound.summary) == ((), "Numbers: 30 samples in 3 shards, 0 elsewhere")
    (tmp_path / "000000.tar").unlink()
    (tmp_path / "000001.tar").write_bytes(b"short")
    findings = Shards.inspect_data(urls=manifest).findings
    assert [(one.severity, one.what, one.where) for one in findings] == [
        ("error", "A shard is missing.", f"{tmp_path}/000000.tar"),
        ("error", "A shard does not have the size that its manifest states.", f"{tmp_path}/000001.tar"),
    ]


# Shards made by other programs


def test_shards_made_by_other_programs_are_indexed_and_read(
    tmp_path: Path, numbers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(numbers / "000000.tar") as shard:
        [sound, *_] = [shard.extractfile(one).read() for one in shard if one.name.endswith("flac")]  # type: ignore[union-attr]
    said = b'{"label": "dog"}'
    first = [("__meta__", b"x"), ("d/one.FLAC", sound), ("d/one.json", said), ("d/two.flac", sound)]
    tar(tmp_path / "a.tar", first)
    tar(tmp_path / "b.tar", [("three.flac", sound), ("three.txt", b" a dog barks \n"), ("three.cls", b"1")])
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    words = ["index", f"{tmp_path}/{{a,b}}.tar", "--to", f"{tmp_path}/manifest.jsonl", "-j", "1"]
    assert main([*words, "--classes", f"{tmp_path}/classes.json"]) == 0
    assert "3 samples in 2 shards" in capsys.readouterr().out
    found = Shards(f"{tmp_path}/manifest.jsonl")
    assert found.results_name == tmp_path.name
    assert found.class_names == ["cat", "dog"]
    assert [found.record(index)["clip"] for index in range(3)] == ["d/one", "d/two", "three"]
    assert [found[index].labels for index in range(3)] == [["dog"], [], ["dog"]]
    assert [found[index].audio.shape for index in range(3)] == [(1, 4)] * 3
    assert [read().labels for read in found.stream([2, 1, 0])] == [["dog"], [], ["dog"]]
    assert main(["verify", f"{tmp_path}/manifest.jsonl", "-j", "1", "--decode"]) == 0
    assert main(words) == 2
    assert "already exists" in capsys.readouterr().err


def test_the_index_of_our_shards_equals_their_manifest(folded: str) -> None:
    folder = Path(folded).parent
    words = ["index", f"{folder}/fold-{{1..4}}-{{000000..000001}}.tar", "-j", "1", "--name", "Numbers"]
    assert main([*words, "--to", f"{folder}/again.jsonl"]) == 0
    ours, theirs = (find(f"{folder}/{name}.jsonl") for name in ("again", "manifest"))
    assert [one.to_json() for _, one in ours.shards] == [one.to_json() for _, one in theirs.shards]
    assert ours.about.suffixes == theirs.about.suffixes
    assert ours.about.class_names == theirs.about.class_names


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "it has no sample"),
        ({"one.json": b"[]"}, "its json is a list; an object is expected"),
        ({"one.json": b'{"labels": {"a": 1}}'}, "its labels are {'a': 1}; a list of texts is expected"),
        ({"one.json": b'{"text": 3}'}, "must be texts"),
        ({"one.cls": b"7"}, "its cls is 7, but the set has 0 class names"),
        ({"one.json": b"{}", "one.JSON": b"{}"}, "one.JSON occurs twice"),
    ],
)
def test_shards_that_cannot_be_indexed_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, bytes], said: str
) -> None:
    tar(tmp_path / "a.tar", content.items())
    assert main(["index", f"{tmp_path}/a.tar", "--to", f"{tmp_path}/m.jsonl", "-j", "1"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_shard_is_not_indexed(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: bool
) -> None:
    content = bytearray((numbers / "000000.tar").read_bytes())
    if cut:
        content = content[:2300]
    else:
        content[2048:2560] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(content)
    assert main(["index", f"{tmp_path}/a.tar", "--to", f"{tmp_path}/m.jsonl", "-j", "1"]) == 2
    said = capsys.readouterr().err
    assert "a.tar cannot be indexed: " in said
    assert ("it is cut short after 1 samples" if cut else "it is damaged after 1 samples") in said


def test_digests_distinguish_sets() -> None:
    entry = ShardEntry.from_json(ENTRY)
    other = ShardEntry.from_json({**ENTRY, "sha256": "1" * 64})
    assert digest([entry]) == digest([ShardEntry.from_json(ENTRY)])
    assert len({digest([entry]), digest([other]), digest([entry, other]), digest([other, entry])}) == 4
    assert SetEntry(**ABOUT).suffixes == []
