"""Two processes with workers read each sample of shards once per epoch, also after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from toy_research.numbers import SaidNumbers, written
from toy_research.ranks import on_ranks, read_shards

from utils.datasets import Shards

pytestmark = pytest.mark.processes

WORKERS = (1, 2, 4)


def counted(parts: Iterable[list[list[int]]]) -> Counter[int]:
    return Counter(index for batches in parts for batch in batches for index in batch)


def check(folder: Path, *, count: int, samples: int, batch_size: int) -> None:
    manifest = str(written(folder, SaidNumbers(count), samples=samples))
    ranks: list[dict[str, Any]] = on_ranks(2, folder, read_shards, manifest, batch_size, WORKERS)
    once = Counter(range(count))
    first = [rank["epochs"][1] for rank in ranks]
    assert counted(first) == once
    for workers in WORKERS:
        assert [rank["epochs"][workers] for rank in ranks] == first
    shards = Shards(manifest)
    for rank in ranks:
        for index, labels in rank["read"].items():
            number = int(str(shards.record(index)["clip"]).split()[1])
            assert labels == [SaidNumbers.class_names[number % 2]]
    # The second epoch, resumed in the middle with another number of workers.
    parts = [rank["before"] + rank["after"] for rank in ranks]
    assert counted(parts) == once
    assert parts != first
    # The batches of both processes together are as large as those of one process.
    for together in (first, parts):
        sizes = [len(one) + len(other) for one, other in zip(*together, strict=True)]
        assert sizes == [batch_size] * (count // batch_size) + [count % batch_size]


def test_two_ranks_read_every_sample_once(tmp_path: Path) -> None:
    check(tmp_path, count=403, samples=31, batch_size=16)
