"""Streamed data sets yield each sample once, with any number of workers, and resume without rereading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.augment import Fit, GlobalHiss
from toy_research.protocols import run_toy
from toy_research.records import differences
from toy_research.signals import Tones, TonesInStretches

from ignite_trainer.data.loader import Batch, SplitLoader
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.data.streams import BatchPlan, usable_workers
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped
from tests.ignite_trainer.data import loading
from tests.ignite_trainer.data.loading import epoch

STREAMED = "toy_research.signals.TonesInStretches"


def loader(dataset: Any, *, max_share: float | None = None, **options: Any) -> SplitLoader:
    unreadable = UnreadableSamples(dataset, split="given", max_share=max_share)
    return loading.loader(dataset, GlobalHiss(), Fit(length=16), unreadable=unreadable, **options)


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return [index for one in lists for index in one]


# The plan


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[4] * 7 + [2], [3], [4] * 3, []])
def test_the_batches_of_a_plan_divide_the_slice_of_a_process(sizes: list[int], lanes: int) -> None:
    plan = BatchPlan(sizes, first=10, lanes=lanes)
    spans = [plan.span(number) for number in range(len(sizes))]
    assert [end - start for start, end in spans] == sizes
    assert sorted(position for span in spans for position in range(*span)) == list(range(10, 10 + sum(sizes)))
    assert (plan.first, plan.end) == (10, 10 + sum(sizes))


def test_the_batches_of_a_lane_are_contiguous() -> None:
    plan = BatchPlan([4, 4, 4, 4, 4, 2], first=0, lanes=2)
    assert [plan.span(number) for number in (0, 2, 4)] == [(0, 4), (4, 8), (8, 12)]
    assert [plan.span(number) for number in (1, 3, 5)] == [(12, 16), (16, 20), (20, 22)]
    assert [plan.lane_end(number) for number in range(6)] == [12, 22, 12, 22, 12, 22]


def test_workers_share_lanes_evenly() -> None:
    assert [usable_workers(wanted, 8) for wanted in range(10)] == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8]
    assert usable_workers(5, 6) == 3


# Order and workers


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 4, 20])
def test_every_sample_is_read_once_and_workers_change_nothing(
    workers: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite_trainer.data.loader._processors", lambda: 4)
    alone = epoch(loader(TonesInStretches(), batch_size=batch_size))
    helped = epoch(loader(TonesInStretches(), batch_size=batch_size, workers=workers))
    assert sorted(flat(indices(alone))) == list(range(20))
    assert indices(helped) == indices(alone)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.sample.signal, other.sample.signal)


def test_samples_equal_those_loaded_one_by_one() -> None:
    streamed = {
        int(index): row
        for batch in epoch(loader(TonesInStretches()))
        for index, row in zip(batch.indices, batch.sample.signal, strict=True)
    }
    for batch in epoch(loader(Tones())):
        for index, row in zip(batch.indices, batch.sample.signal, strict=True):
            assert torch.equal(streamed[int(index)], row)


def test_epochs_differ_and_are_reproducible() -> None:
    batches = loader(TonesInStretches())
    first, second = indices(epoch(batches, 1)), indices(epoch(batches, 2))
    assert first != second
    assert indices(epoch(batches, 1)) == indices(epoch(batches, 1)) == first
    assert indices(epoch(loader(TonesInStretches(lanes=1), shuffle=False))) == [
        list(range(start, start + 4)) for start in range(0, 20, 4)
    ]


def test_an_incomplete_batch_can_be_dropped() -> None:
    batches = loader(TonesInStretches(), batch_size=8, drop_last=True)
    assert len(batches) == 2
    assert [len(batch) for batch in indices(epoch(batches))] == [8, 8]
    assert len(set(flat(indices(epoch(batches))))) == 16


def test_samples_before_the_start_are_not_read() -> None:
    dataset = TonesInStretches()
    batches = loader(dataset)
    whole = indices(epoch(batches))
    for start in range(1, 5):
        dataset.read = []
        assert indices(epoch(batches, start=start)) == whole[start:]
        assert sorted(flat(dataset.read)) == sorted(flat(whole[start:]))


def test_each_lane_is_read_by_one_stream() -> None:
    dataset = TonesInStretches(lanes=2)
    whole = indices(epoch(loader(dataset)))
    assert dataset.read == [whole[0] + whole[2] + whole[4], whole[1] + whole[3]]


def test_an_interrupted_pass_is_followed_by_a_complete_one() -> None:
    batches = loader(TonesInStretches())
    whole = indices(epoch(batches))
    iterator: Iterator[Batch] = iter(batches)
    next(iterator)
    del iterator
    assert indices(epoch(batches)) == whole


# Faults


def test_unreadable_samples_are_dropped_from_their_batch() -> None:
    whole = epoch(loader(TonesInStretches()))
    batches = loader(TonesInStretches(gone=[7]), max_share=0.1)
    assert indices(epoch(batches)) == [[index for index in batch if index != 7] for batch in indices(whole)]
    assert batches.unreadable.state_dict() == {7: "7 is cut off"}


def test_an_unreadable_sample_ends_the_run_by_default() -> None:
    with pytest.raises(RunFailed, match=r"sample 7 of the given split cannot be read: 7 is cut off\."):
        epoch(loader(TonesInStretches(gone=[7])))


def test_other_samples_replace_an_unreadable_training_batch() -> None:
    whole = indices(epoch(loader(TonesInStretches(), drop_last=True)))
    gone = [*whole[1], whole[0][0]]
    batches = loader(TonesInStretches(gone=gone), max_share=0.5, drop_last=True)
    found = indices(epoch(batches))
    assert found[0] == whole[0][1:]
    assert found[2:] == whole[2:]
    assert len(found[1]) == 4
    assert not set(found[1]) & set(gone)
    assert found[1:] == indices(epoch(batches, start=1))  # the same after a resume
    assert sorted(batches.unreadable.state_dict()) == sorted(gone)


def test_an_unreadable_epoch_ends_the_run() -> None:
    dataset = TonesInStretches(gone=range(19))  # the last sample is not used
    with pytest.raises(RunFailed, match="No sample in its batch can be read"):
        epoch(loader(dataset, max_share=1.0, batch_size=3, drop_last=True, shuffle=False))


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ({"stream": lambda *_: iter(())}, r"Faulty\.stream\(\) yielded fewer samples than requested"),
        ({"epoch_order": lambda *_: range(3)}, r"Faulty\.epoch_order\(\) returned 3 indices; expected 20"),
    ],
)
def test_defects_of_a_data_set_are_reported(faulty: dict[str, Any], message: str) -> None:
    kind = type("Faulty", (TonesInStretches,), faulty)
    with pytest.raises(ProtocolError, match=message):
        epoch(loader(kind()))


# Runs


def streamed(**args: Any) -> dict[str, Any]:
    return {"class": STREAMED, "args": {"fold": 1, **args}}


def test_a_run_resumed_within_an_epoch_ends_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {"Dataset": streamed(), "Setup__batch_train": 4, "Setup__resume": "auto"}
    signal = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM"}}
    whole = run_toy(tmp_path / "whole", Task=signal, **options)
    stop = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", "step": 8}}
    with pytest.raises(RunStopped):
        run_toy(tmp_path / "parts", Task=stop, **options)
    [folder] = (tmp_path / "parts/Toy").iterdir()
    saved = json.loads((folder / "protocol.json").read_text())
    # otherwise, the protocol would differ and not be resumed
    (folder / "protocol.json").write_text(json.dumps({**saved, "Task": signal}))
    parts = run_toy(tmp_path / "parts", Task=signal, Setup__workers_train=2, **options)
    assert parts.folder == folder
    assert not differences(whole.folder, parts.folder)


def test_unreadable_samples_are_counted_in_a_run(tmp_path: Path) -> None:
    faults = {"unreadable": "skip", "unreadable_at_most": 0.2}
    result = run_toy(tmp_path, Dataset=streamed(gone=[3]), Faults=faults)
    assert result.record.faults == {"samples skipped": 2}
