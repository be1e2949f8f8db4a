"""Several captions per sample: in tables, in shards, and in checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from ignite_trainer.api.batch import Alternatives
from tests.ignite_trainer.data.loading import epoch, loader
from tests.utils.tasks.test_tasks import tiny_audioclip
from utils.datasets import Shards, Table
from utils.datasets.sample import Entries, Entry
from utils.shards.making import Options, make
from utils.tasks import Contrastive

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        samples = np.random.default_rng(number).integers(-9000, 9000, 800).astype(np.int16)
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
    return tmp_path


def own(folder: Path, content: str, **args: Any) -> Table:
    (folder / "own.csv").write_text(content)
    return Table(folder / "own.csv", RATE, cache=False, **args)


def captions(table: Table) -> list[tuple[str, ...]]:
    return [entry.captions for entry in table.entries]


EXPECTED = [("a dog barks", "barking"), ("rain",)]


def test_captions_are_a_list_in_a_cell(folder: Path) -> None:
    cells = ('"[""a dog barks"", ""barking""]"', "\"['a dog barks', 'barking', 'barking']\"")
    for cell in cells:
        data = own(folder, f"file,caption\n0.wav,{cell}\n1.wav,rain\n")
        assert captions(data) == EXPECTED
        first, second = (tuple(sample)[3] for sample in data)
        assert isinstance(first, Alternatives)
        assert (first, second) == (EXPECTED[0], "rain")
    rows = [{"file": "0.wav", "captions": list(EXPECTED[0])}, {"file": "1.wav", "captions": ["rain"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "own.parquet")
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("own.parquet", "own.jsonl"):
        assert captions(Table(folder / name, RATE, cache=False)) == EXPECTED


@pytest.mark.parametrize("text", ["[laughter] a man talks", "[1, 2]", "(a dog) barks", "[a, b]"])
def test_text_in_brackets_is_one_caption(folder: Path, text: str) -> None:
    assert captions(own(folder, f'file,caption\n0.wav,"{text}"\n')) == [(text,)]


def test_a_broken_list_of_captions_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"own.csv, line 2: caption is .*; a text, or a JSON list of captions"
    ):
        own(folder, "file,caption\n0.wav,\"['a dog barks', 'barking\"\n")


def test_captions_are_in_numbered_columns(folder: Path) -> None:
    text = "file_name,caption_1,caption_2,caption_3\n0.wav,a dog barks,barking,\n1.wav,,rain,rain\n"
    data = own(folder, text)
    assert captions(data) == EXPECTED
    assert data.unused_columns == ""
    named = own(folder, text, text="caption_2")
    assert captions(named) == [("barking",), ("rain",)]
    assert named.unused_columns == "caption_1, caption_3"
    with pytest.raises(ValueError, match="has no column of sounds, images or texts"):
        own(folder, text, audio=False, text=False)


def test_rows_of_one_clip_are_one_sample(folder: Path) -> None:
    rows = [
        "0.wav,0,1,a dog barks",
        "1.wav,0,1,rain",
        "0.wav,0,1,barking",
        "0.wav,0,2,a dog",
        "0.wav,0,1,barking",
    ]
    data = own(folder, "\n".join(["file,start,end,caption", *rows]), missing="skip")
    assert captions(data) == [*EXPECTED, ("a dog",)]
    assert list(data.lines) == [2, 3, 5]
    assert data.whole_name == "own (3 samples)"
    assert data.ignored_notice == (
        f"{folder / 'own.csv'}: 2 of 5 rows are further captions of a clip; 3 samples are left."
    )


def test_rows_of_one_clip_that_differ_are_counted_and_not_merged(folder: Path) -> None:
    rows = ["0.wav,dog,1,a dog", "0.wav,cat,1,a cat", "0.wav,dog,2,barking", "1.wav,dog,2,rain"]
    data = own(folder, "\n".join(["file,label,fold,caption", *rows]))
    assert captions(data) == [("a dog",), ("a cat",), ("barking",), ("rain",)]
    assert data.ignored_notice is not None
    assert (
        "2 rows describe a clip of an earlier row with other labels or in another fold" in data.ignored_notice
    )
    assert "(first: line 3)" in data.ignored_notice


def test_rows_without_a_caption_are_not_merged(folder: Path) -> None:
    data = own(folder, "file,label,caption\n0.wav,dog,\n0.wav,dog,\n1.wav,dog,rain\n")
    assert len(data) == 3
    assert data.ignored_notice is None


def test_entries_with_one_caption_have_the_digest_of_earlier_versions() -> None:
    """Runs of earlier versions can be resumed; the value was recorded before there were lists."""
    entries = [
        Entry("a.wav", ("b.png",), ("a dog",), ("dog",), (0.5, 2.0), 3),
        Entry(None, (), ("rain",)),
        Entry("c.wav"),
    ]
    packed = Entries(entries)
    assert packed.digest == "f69973ef6e123062"
    assert list(packed) == entries
    several = [Entry("a.wav", captions=("a", "b")), Entry(captions=("c",))]
    assert list(Entries(several)) == several


def test_shards_keep_all_captions(folder: Path) -> None:
    longer = "a dog barks " + "and barks " * 5
    data = own(folder, f'file,caption\n0.wav,"[""a dog"", ""{longer}""]"\n1.wav,rain\n2.wav,\n')
    make({None: data}, folder / "set", Options(seed=None), made_from={})
    shards = Shards(str(folder / "set/manifest.jsonl"))
    texts: list[Any] = [tuple(shards[index])[3] for index in range(3)]
    assert texts == [("a dog", longer.strip()), "rain", None]
    assert isinstance(texts[0], Alternatives)
    assert [listing.captions for listing in shards.listings()] == [(longer.strip(),)]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_on_shards_draws_a_caption(folder: Path, workers: int) -> None:
    rows = [f'{number}.wav,"[""a {number}"", ""b {number}"", ""c {number}""]"' for number in range(4)]
    make({None: own(folder, "\n".join(["file,caption", *rows]))}, folder / "set", Options(), made_from={})
    shards = Shards(str(folder / "set/manifest.jsonl"), RATE, lanes=1)
    drawn = [
        text
        for number in range(20)
        for batch in epoch(loader(shards, workers=workers, draws=True, unequal_lengths=True), number)
        for text in batch.sample.text
    ]
    assert len(drawn) == 80
    assert set(drawn) == {f"{letter} {number}" for letter in "abc" for number in range(4)}


def test_every_caption_of_a_sample_is_checked(folder: Path) -> None:
    text = f'file,caption\n0.wav,"[""a dog"", ""{"dog " * 11}"", ""{"rain " * 12}""]"\n1.wav,rain\n'
    data = own(folder, text)
    findings = list(Contrastive().check(tiny_audioclip(), train=data, test=data))
    places = [finding.where for finding in findings if "exceeds the text tower's limit" in finding.what]
    assert places == ["own.csv, line 2: 0.wav (13 tokens)", "own.csv, line 2: 0.wav (14 tokens)"]
