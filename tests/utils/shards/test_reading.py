"""Local, remote and damaged shards are read."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.numbers import SaidNumbers, written

from ignite_trainer.api.streamed import Streamed
from ignite_trainer.data.loader import Batch, SplitLoader
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.support.errors import RunFailed
from utils.datasets import Shards
from utils.shards import reading
from utils.shards.checking import verify

COUNT = 10_000


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a hundred numbers to ten shards, in order; return the folder."""
    return written(tmp_path_factory.mktemp("numbers"), seed=None).parent


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write ten thousand numbers to 37 shards."""
    folder = tmp_path_factory.mktemp("many")
    return str(written(folder, SaidNumbers(COUNT), samples=271))


@pytest.fixture(scope="module")
def order(many: str) -> list[list[int]]:
    """Return the batches of the first epoch of `many`, without workers."""
    return indices(epoch(loader(Shards(many), batch_size=64)))


@pytest.fixture
def served(numbers: Path) -> Iterator[str]:
    """Serve the shards of `numbers`; yield the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(numbers))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def loader(shards: Shards, *, max_share: float | None = None, **options: Any) -> SplitLoader:
    settings: dict[str, Any] = {
        "batch_size": 7,
        "workers": 0,
        "shuffle": True,
        "drop_last": False,
        "seed": 5,
        "unreadable": UnreadableSamples(shards, split="training", max_share=max_share),
    }
    return SplitLoader(shards, [], device=torch.device("cpu"), **settings | options)


def epoch(batches: SplitLoader, number: int = 1, start: int = 0) -> list[Batch]:
    batches.set_epoch(number, start=start)
    return list(batches)


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return [index for one in lists for index in one]


def values(shards: Shards, batches: list[Batch]) -> dict[int, float]:
    """Return the value of each sample by index; check that sample "number n" has the value n."""
    found = {
        int(index): float(row[0, 0])
        for batch in batches
        for index, row in zip(batch.indices, batch.sample.audio, strict=True)
    }
    for index, value in found.items():
        assert shards.record(index)["clip"] == f"number {value:.0f}"
    return found


# Ten thousand samples


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ten_thousand_samples_are_read_once_per_epoch_with_any_number_of_workers(
    many: str, order: list[list[int]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite_trainer.data.loader._processors", lambda: 4)
    shards = Shards(many)
    batches = loader(shards, batch_size=64, workers=workers)
    found = epoch(batches)
    batches.close()
    assert Counter(flat(indices(found))) == Counter(range(COUNT))
    assert indices(found) == order
    for batch in found:
        said = [int(str(shards.record(int(index))["clip"]).split()[1]) for index in batch.indices]
        assert batch.sample.labels == [[SaidNumbers.class_names[number % 2]] for number in said]


def test_resuming_an_epoch_neither_loses_nor_repeats_samples(many: str, order: list[list[int]]) -> None:
    batches = loader(Shards(many), batch_size=64, workers=2)
    before = []
    batches.set_epoch(2)
    for batch in batches:
        before.append(batch.indices.tolist())
        if len(before) == 100:
            break
    batches.close()
    after = indices(epoch(loader(Shards(many), batch_size=64, workers=1), 2, start=100))
    assert Counter(flat([*before, *after])) == Counter(range(COUNT))
    assert [*before, *after] != order


# Remote shards


def test_shards_are_streamed(numbers: Path) -> None:
    assert isinstance(Shards(str(numbers / "manifest.jsonl")), Streamed)


@pytest.mark.usefixtures("pipes")
def test_remote_shards_yield_the_same_batches(numbers: Path, served: str) -> None:
    here = Shards(str(numbers / "manifest.jsonl"))
    expected = epoch(loader(here))
    assert len(values(here, expected)) == 100
    pipe = f"pipe:cat {numbers}/{{000000..000009}}.tar"
    for there in (
        Shards(f"{served}/manifest.jsonl"),
        Shards(f"{served}/{{000000..000009}}.tar"),
        Shards(pipe, manifest=str(numbers / "manifest.jsonl")),
        Shards(f"file:{numbers}/manifest.jsonl"),
        Shards([str(numbers / f"{number:06d}.tar") for number in range(10)]),
    ):
        found = epoch(loader(there))
        assert indices(found) == indices(expected)
        assert values(there, found) == values(here, expected)
        assert there.digest == here.digest


@pytest.mark.usefixtures("pipes")
def test_a_stretch_can_begin_within_a_shard(numbers: Path) -> None:
    here = Shards(str(numbers / "manifest.jsonl"), block=4)
    there = Shards(
        f"pipe:cat {numbers}/{{000000..000009}}.tar", manifest=str(numbers / "manifest.jsonl"), block=4
    )
    order = here.epoch_order(7)
    for start, end in ((0, 100), (33, 58), (99, 100), (7, 8)):
        ours, theirs = (
            [read().audio[0, 0] for read in shards.stream(order[start:end])] for shards in (here, there)
        )
        assert ours == theirs == list(order[start:end])


@pytest.mark.usefixtures("pipes")
def test_at_most_one_block_of_samples_is_kept_in_memory(numbers: Path) -> None:
    manifest = str(numbers / "manifest.jsonl")
    there = Shards(f"pipe:cat {numbers}/{{000000..000009}}.tar", manifest=manifest, block=5)
    url, entry = there.shards[3]
    shard = reading.RemoteShard(url, entry)
    for reads in (shard.read([4, 2, 0, 3, 1]), shard.read([9, 5, 8])):
        assert len([read() for read in reads]) in (5, 3)
    shard.close()
    order = there.epoch_order(1)
    for start in range(0, 100, 5):
        block = order[start : start + 5]
        assert max(block) - min(block) == 4


@pytest.mark.usefixtures("pipes")
def test_a_broken_connection_is_retried(numbers: Path, tmp_path: Path) -> None:
    # The first two transfers stop early.
    script = tmp_path / "get.sh"
    script.write_text(
        'n=$(cat "$2" 2>/dev/null || echo 0); echo $((n + 1)) > "$2"\n'
        'if [ "$n" -lt 2 ]; then head -c 9000 "$1"; exit 18; fi; cat "$1"\n'
    )
    url = f"pipe:sh {script} {numbers}/{{000000..000009}}.tar {tmp_path}/count"
    shards = Shards(url, manifest=str(numbers / "manifest.jsonl"))
    assert [read().audio[0, 0] for read in shards.stream(range(30, 40))] == list(range(30, 40))
    assert (tmp_path / "count").read_text() == "3\n"


# Damaged


def damaged(numbers: Path, tmp_path: Path, *, cut: int | None = None, at: int | None = None) -> Path:
    """Copy the shards, with the fourth truncated, overwritten in one place, or missing."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in numbers.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / "000003.tar"
    content = bytearray(shard.read_bytes())
    if cut is not None:
        shard.write_bytes(content[:cut])
    elif at is not None:
        content[at : at + 512] = b"\xff" * 512
        shard.write_bytes(content)
    else:
        shard.unlink()
    return folder


SAMPLE = 2048  # bytes of a sample in a shard: two files, each of a header and a block


@pytest.mark.parametrize(
    ("damage", "lost", "said"),
    [
        ({}, range(30, 40), "No such file or directory"),
        ({"cut": 4 * SAMPLE + 700}, range(34, 40), "is cut short: it ends in or before this sample"),
        ({"at": 2 * SAMPLE}, [32], "is damaged at byte 4,096"),
        ({"at": 2 * SAMPLE + 512}, [32], "its flac: not decodable as audio"),
        ({"at": 2 * SAMPLE + 1024}, [32], "it has no json, as all samples of the set have"),
        ({"at": 2 * SAMPLE + 1536}, [32], "codec can't decode byte"),
    ],
)
def test_a_damaged_local_shard_loses_only_damaged_samples(
    numbers: Path, tmp_path: Path, damage: dict[str, int], lost: Any, said: str
) -> None:
    shards = Shards(str(damaged(numbers, tmp_path, **damage) / "manifest.jsonl"))
    batches = loader(shards, max_share=0.1, batch_size=20)
    found = values(shards, epoch(batches))
    assert sorted(found) == [index for index in range(100) if index not in lost]
    state = batches.unreadable.state_dict()
    assert sorted(state) == list(lost)
    for index, why in state.items():
        assert f"sample {index - 30} of 10 in 000003.tar: " in why
        assert said in why


@pytest.mark.usefixtures("pipes")
@pytest.mark.parametrize("damage", [{}, {"cut": 4 * SAMPLE + 700}, {"at": 4 * SAMPLE}])
def test_a_damaged_remote_shard_loses_all_following_samples(
    numbers: Path, tmp_path: Path, damage: dict[str, int]
) -> None:
    folder = damaged(numbers, tmp_path, **damage)
    url = f"pipe:cat {folder}/{{000000..000009}}.tar 2>/dev/null"
    shards = Shards(url, manifest=str(numbers / "manifest.jsonl"), lanes=2)
    batches = loader(shards, max_share=0.1, batch_size=20)
    found = values(shards, epoch(batches))
    lost = range(34, 40) if damage else range(30, 40)
    assert sorted(found) == [index for index in range(100) if index not in lost]
    [why] = {why.partition(": ")[2] for why in batches.unreadable.state_dict().values()}
    assert f"is damaged or cannot be reached: {4 if damage else 0} of its 10 samples could be read" in why


def test_a_damaged_shard_stops_the_run_unless_skipping_is_allowed(numbers: Path, tmp_path: Path) -> None:
    shards = Shards(str(damaged(numbers, tmp_path) / "manifest.jsonl"))
    said = "(?s)clip number 3.* of the training split cannot be read: sample .* of 10 in 000003.tar: "
    with pytest.raises(RunFailed, match=said):
        epoch(loader(shards))


def test_a_missing_shard_does_not_change_the_number_of_steps(numbers: Path, tmp_path: Path) -> None:
    shards = Shards(str(damaged(numbers, tmp_path) / "manifest.jsonl"), lanes=2)
    batches = loader(shards, max_share=0.2, batch_size=5, drop_last=True)
    found = epoch(batches)
    assert len(found) == len(batches) == 20
    assert set(values(shards, found)) == set(range(100)) - set(range(30, 40))
    assert min(len(batch.indices) for batch in found) > 0


def test_another_shard_with_the_same_name_is_detected(numbers: Path, tmp_path: Path) -> None:
    folder = damaged(numbers, tmp_path)
    (folder / "000003.tar").write_bytes((numbers / "000004.tar").read_bytes())
    shards = Shards(str(folder / "manifest.jsonl"))
    with pytest.raises(ValueError, match="it is number 40; the manifest is of another shard"):
        shards[30]


def test_verify_names_damaged_shards_and_samples(numbers: Path, tmp_path: Path, served: str) -> None:
    assert verify(str(numbers / "manifest.jsonl"), decode=True) == ([], 100, 100, 0)
    assert verify(f"{served}/manifest.jsonl") == ([], 100, 100, 0)
    folder = damaged(numbers, tmp_path, at=2 * SAMPLE + 512)
    lines = verify(str(folder / "manifest.jsonl")).wrong
    assert lines[0] == f"{folder}/000003.tar: its sha256 differs from that in the manifest"
    assert len(lines) == 2
    assert "sample 2 of 10 in 000003.tar: its flac: not decodable as audio" in lines[1]
    (folder / "000005.tar").unlink()
    assert "No such file" in verify(str(folder / "manifest.jsonl")).wrong[2]
    (folder / "000006.tar").write_bytes((folder / "000006.tar").read_bytes()[: 9 * SAMPLE])
    assert verify(str(folder / "manifest.jsonl"), processes=2).wrong[-2:] == [
        f"{folder}/000006.tar: 18,432 bytes; the manifest says 30,720",
        f"  sample 9 of 10 in 000006.tar: {folder}/000006.tar is cut short: it ends in or before this sample",
    ]
