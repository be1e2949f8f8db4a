"""Writing shards: contents, order, resuming."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toy_research.numbers import FOLDS, Numbers, written

from utils.datasets import ESC50, MadeSounds, Shards, UrbanSound8K
from utils.shards import making
from utils.shards.__main__ import main
from utils.shards.making import Options, make, plan
from utils.shards.manifest import Manifest
from utils.shards.writing import encode, write_shard


def read(manifest: Path) -> Manifest:
    with manifest.open("rb") as lines:
        return Manifest.parse(lines, source=str(manifest))


def names(manifest: Path) -> list[list[str]]:
    return [shard.names for shard in read(manifest).shards]


# Contents


def test_every_sample_is_in_one_shard_in_random_order(tmp_path: Path) -> None:
    found = names(written(tmp_path))
    assert [len(shard) for shard in found] == [10] * 10
    flat = [name for shard in found for name in shard]
    assert sorted(flat) == sorted(f"number {index}" for index in range(100))
    assert flat != sorted(flat, key=lambda name: int(name.split()[1]))


def test_the_seed_decides_the_order_unless_the_data_set_does(tmp_path: Path) -> None:
    first, same, other = (names(written(tmp_path / str(n), seed=seed)) for n, seed in enumerate((0, 0, 1)))
    assert first == same != other
    ordered = names(written(tmp_path / "ordered", seed=None))
    assert ordered == [[f"number {10 * shard + index}" for index in range(10)] for shard in range(10)]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # raised inside webdataset
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    import webdataset

    manifest = written(tmp_path, Numbers(30, images=True))
    urls = [str(tmp_path / shard.file) for shard in read(manifest).shards]
    assert [Path(url).name for url in urls] == ["000000.tar", "000001.tar", "000002.tar"]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == 30
    for sample in samples:
        said = json.loads(sample["json"])
        index = int(sample["__key__"])
        assert said == {"clip": f"number {index}", "labels": [Numbers.class_names[index % 2]]}
        assert {"flac", "0.png"} < sample.keys()


def test_the_manifest_contains_the_offset_of_each_sample(tmp_path: Path) -> None:
    for shard in read(written(tmp_path)).shards:
        with tarfile.open(tmp_path / shard.file) as tar:
            members = [member for member in tar if member.name.endswith(".flac")]
            said = [member for member in tar if member.name.endswith(".json")]
        assert [member.offset for member in members] == shard.offsets[:-1].tolist()
        assert shard.offsets[-1] == said[-1].offset_data + 512
        assert shard.size_bytes == (tmp_path / shard.file).stat().st_size


def test_equal_sets_make_equal_shards(tmp_path: Path) -> None:
    first, second = (read(written(tmp_path / name)) for name in "ab")
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in second.shards]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"samples": 30}, [25] * 4),
        ({"samples": 1000}, [100]),
        ({"samples": 1000, "size_bytes": 20_000}, [10] + [9] * 10),
        ({"samples": 1000, "size_bytes": 1}, [1] * 100),
    ],
)
def test_the_size_of_a_shard_is_limited_by_samples_or_bytes(
    options: dict[str, Any], expected: list[int]
) -> None:
    jobs = plan({None: Numbers(100)}, Options(**options))
    assert [len(job.indices) for job in jobs] == expected  # each sample is two files of two blocks


def test_each_fold_has_its_own_shards(tmp_path: Path) -> None:
    shards = read(written(tmp_path, Numbers(40, folds=True), samples=6)).shards
    assert [shard.file[:-4] for shard in shards[:3]] == ["fold-1-000000", "fold-1-000001", "fold-2-000000"]
    for shard in shards:
        assert {int(name.split()[1]) % FOLDS + 1 for name in shard.names} == {shard.fold}


def test_each_split_without_folds_has_its_own_shards(tmp_path: Path) -> None:
    make({"train": Numbers(20), "test": Numbers(5)}, tmp_path, Options(samples=10), made_from={})
    shards = read(tmp_path / "manifest.jsonl").shards
    assert [(shard.file, shard.split, len(shard)) for shard in shards] == [
        ("train-000000.tar", "train", 10),
        ("train-000001.tar", "train", 10),
        ("test-000000.tar", "test", 5),
    ]


@pytest.mark.parametrize(
    ("splits", "args"),
    [
        ({"train": Numbers(20), "validation": Numbers(7), "test": Numbers(5)}, {}),
        ({None: Numbers(32, folds=True)}, {"fold": 4, "validation_fold": "next"}),
    ],
)
def test_shards_keep_the_validation_split_from_training(
    tmp_path: Path, splits: dict[str | None, Any], args: dict[str, Any]
) -> None:
    make(splits, tmp_path, Options(samples=4), made_from={})
    url = str(tmp_path / "manifest.jsonl")
    train, test = Shards(url, train=True, **args), Shards(url, train=False, **args)
    validation = train.validation
    assert validation is not None and test.validation is None
    parts = [[int(part[i].audio[0, 0]) for i in range(len(part))] for part in (train, validation, test)]
    if args:  # number i is in fold i % 4 + 1
        assert [{number % 4 + 1 for number in part} for part in parts] == [{2, 3}, {1}, {4}]
    assert [len(part) for part in parts] == ([16, 8, 8] if args else [20, 7, 5])
    assert len({train.digest, validation.digest, test.digest}) == 3


# Encoding


def test_sounds_and_images_survive_unchanged(tmp_path: Path) -> None:
    numbers = Numbers(20, images=True)
    for audio in ("keep", "flac", "wav"):
        shards = Shards(str(written(tmp_path / audio, numbers, audio=audio)))
        for index in range(20):
            number = int(str(shards.record(index)["clip"]).split()[1])
            sample, expected = shards[index], numbers[number]
            assert np.array_equal(sample.audio, expected.audio)
            assert sample.audio.dtype == np.float32
            assert np.array_equal(sample.image, expected.image)
            assert sample.labels == expected.labels


@pytest.mark.parametrize(("audio", "most"), [("flac", 0.501), ("wav", 0.0), ("ogg", 3000.0)])
def test_encoding_loses_no_more_than_the_format_requires(audio: Any, most: float) -> None:
    tones = np.sin(np.arange(1, 3)[:, None] * np.linspace(0, 300, 5000))
    loud = (30000 * tones).astype(np.float32)

    class One(Numbers):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)._replace(audio=loud)

    content = encode(One(1), 0, audio=audio)
    decoded, rate = soundfile.read(io.BytesIO(content[audio]), dtype="float32")
    assert rate == 44100
    assert np.abs(decoded.T * 32768 - loud).max() <= most


def test_files_are_copied_without_encoding(tmp_path: Path) -> None:
    sounds = MadeSounds(tmp_path / "sounds", clips_per_class_and_fold=1, seconds=0.1)
    content = encode(sounds, 3, audio="keep")
    assert content["wav"] == (sounds.root / sounds.clips[3].path).read_bytes()
    assert set(content) == {"__key__", "wav", "json"}
    clip = sounds.clips[3]
    assert json.loads(content["json"]) == {"clip": clip.path, "fold": clip.fold, "labels": [clip.label]}


def test_a_data_set_with_its_own_decoding_has_no_files_to_copy() -> None:
    assert UrbanSound8K.decoding != ESC50.decoding
    assert UrbanSound8K.files(UrbanSound8K.__new__(UrbanSound8K), 0) is None


def test_labels_must_be_names() -> None:
    class Counted(Numbers):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)._replace(labels=[index])

    with pytest.raises(ValueError, match=r"its labels are \[3\]; a list of names is expected"):
        encode(Counted(5), 3, audio="keep")


# Resuming


def test_resuming_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(written(tmp_path / "whole"))
    write, count = write_shard, 0

    def fail_after_four(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise OSError("no space left")
        return write(*args, **options)

    monkeypatch.setattr(making, "write_shard", fail_after_four)
    with pytest.raises(OSError, match="no space left"):
        written(tmp_path / "parts")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.tar")}
    assert len(times) == 4
    (tmp_path / "parts" / "000001.tar").write_bytes(b"cut short")
    (tmp_path / "parts" / "000012.tar.part").write_bytes(b"left by a process that was killed")
    monkeypatch.setattr(making, "write_shard", write)
    parts = read(written(tmp_path / "parts"))
    assert [shard.to_json() for shard in parts.shards] == [shard.to_json() for shard in whole.shards]
    for name in ("000000.tar", "000002.tar", "000003.tar"):
        assert (tmp_path / "parts" / name).stat().st_mtime_ns == times[name]
    left = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert left == [".lock", *(f"{number:06d}.tar" for number in range(10)), "manifest.jsonl"]


def test_several_processes_write_the_same_shards(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two", processes=2)
    assert [shard.to_json() for shard in read(one).shards] == [shard.to_json() for shard in read(two).shards]


def test_a_folder_with_another_set_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "done")
    with pytest.raises(ValueError, match="already has a set of shards with a manifest"):
        written(tmp_path / "done")
    with pytest.raises(ValueError, match="cannot be read"):
        written(tmp_path / "begun", Numbers(100, gone=[70]), seed=None)
    with pytest.raises(ValueError, match="has the beginning of another set of shards"):
        written(tmp_path / "begun", Numbers(100, gone=[70]), seed=1)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "x.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="has tar files that this command did not begin"):
        written(tmp_path / "others")


# Unreadable samples


def test_an_unreadable_sample_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="number 17 cannot be read: number 17 is cut off"):
        written(tmp_path, Numbers(100, gone=[17]))


def test_unreadable_samples_can_be_skipped(tmp_path: Path) -> None:
    numbers = Numbers(40, gone=[3, *range(20, 30)])  # including all samples of one shard
    options = Options(samples=10, seed=None, skip=True)
    manifest, left_out = make({None: numbers}, tmp_path, options, made_from={})
    assert sorted(left_out) == sorted(f"number {index}" for index in numbers.gone)
    assert left_out["number 3"] == "number 3 is cut off"
    assert [len(shard) for shard in manifest.shards] == [9, 10, 10]
    assert not (tmp_path / "000002.tar").exists()
    assert len(Shards(str(tmp_path / "manifest.jsonl"))) == 29


# The command

DATA = ["--dataset", "toy_research.numbers.Numbers", "--trust", "toy_research"]


def test_the_command_makes_and_verifies_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["make", "--to", str(tmp_path), *DATA, "--args", '{"count": 30}', "--samples", "10", "-j", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 30 samples in 3 shards, 0.1 MB; 30 sounds, 0 images\n"
    assert main(["verify", str(tmp_path / "manifest.jsonl"), "-j", "1", "--decode"]) == 0
    assert capsys.readouterr().out == ("all shards match their manifest\n30 samples, 30 sounds, 0 images\n")
    made_from = read(tmp_path / "manifest.jsonl").about.made_from
    assert made_from["class"] == "toy_research.numbers.Numbers"
    assert made_from["args"] == {"count": 30}
    assert main(words) == 2
    assert "already has a set of shards" in capsys.readouterr().err


def test_the_command_writes_both_splits_of_a_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = {"root": str(tmp_path / "sounds"), "clips_per_class_and_fold": 1, "seconds": 0.1, "fold": 2}
    words = ["make", "--to", str(tmp_path / "shards"), "-c", "protocols/quickstart.json", "-j", "1"]
    overrides = [word for key, value in sounds.items() for word in (f"--Dataset.args.{key}", str(value))]
    assert main([*words, *overrides]) == 0
    assert "30 samples in 5 shards" in capsys.readouterr().out
    args = {"urls": str(tmp_path / "shards" / "manifest.jsonl"), "fold": 2}
    ours = {split: Shards(train=split, **args) for split in (True, False)}  # type: ignore[arg-type]
    for split, shards in ours.items():
        theirs = MadeSounds(**{**sounds, "train": split})  # type: ignore[arg-type]
        assert shards.class_names == theirs.class_names
        assert (shards.held_out, shards.folds) == (theirs.held_out, theirs.folds)
        assert shards.results_name == theirs.results_name
        by_name = {clip.path: index for index, clip in enumerate(theirs.clips)}
        assert sorted(str(shards.record(index)["clip"]) for index in range(len(shards))) == sorted(by_name)
        for index in range(len(shards)):
            expected = theirs[by_name[str(shards.record(index)["clip"])]]
            assert np.array_equal(shards[index].audio, expected.audio)
            assert shards[index].labels == expected.labels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "json.JSONDecoder"], '"json" is not trusted'),
        ([*DATA, "--args", '{"cuont": 3}'], "Dataset.args.cuont is not an argument"),
        ([*DATA, "--args", "{"], "Expecting property name"),
        ([*DATA, "--args", "[]"], "Dataset: Input should be a valid dictionary"),
        (["-c", "protocols/quickstart.json", "--Dataset.args.flod", "2"], "flod"),
        (["-c", "protocols/quickstart.json", "stray"], "stray: neither a flag nor a key of the protocol"),
    ],
)
def test_the_command_reports_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["make", "--to", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


def test_the_command_names_samples_it_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["make", "--to", str(tmp_path), *DATA, "--args", '{"count": 30, "gone": [4]}', "-j", "1"]
    assert main(words) == 2
    assert "number 4 cannot be read: number 4 is cut off" in capsys.readouterr().err
    assert main([*words[:2], str(tmp_path / "skipping"), *words[3:], "--skip-unreadable"]) == 1
    assert "skipped: number 4: number 4 is cut off" in capsys.readouterr().err
