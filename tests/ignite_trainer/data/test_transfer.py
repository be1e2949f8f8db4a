"""Whole batches equal the collated samples bit for bit, and the next one is read while a step runs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from toy_research.augment import Fit, GlobalHiss, Hiss

from ignite_trainer.api.batch import PaddedBatch, collate
from ignite_trainer.data.loader import Batch, SplitLoader
from ignite_trainer.data.transfer import BatchReader, OnDevice, Transfer, batches_of, one_ahead
from ignite_trainer.support.errors import ProtocolError
from tests.ignite_trainer.data.loading import CPU, epoch, loader

STEPS: list[Any] = [Hiss(), Fit(length=16), Hiss(level=0.2)]


class Number(NamedTuple):
    values: Any
    nothing: Any
    labels: Any
    target: Any


class Numbers(Dataset[Number]):
    """Whole numbers of unequal lengths, as float32 in single samples and as int16 in batches."""

    def __init__(self, lengths: Sequence[int] = (5, 7, 7, 6, 9, 5, 8)) -> None:
        random = np.random.default_rng(0)
        self._values = [random.integers(-32768, 32767, (2, length), np.int16) for length in lengths]
        self.reads = 0
        self.threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Number:
        return Number(self._values[index].astype(np.float32), None, [f"label {index}"], index)

    def read_batch(self, indices: Sequence[int]) -> Number:
        self.reads += 1
        self.threads.add(threading.current_thread())
        return collate([self[index]._replace(values=self._values[index]) for index in indices])  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_thread_remains() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def copy(dataset: Any, *, room: float = 1e9) -> OnDevice:
    return OnDevice(dataset, CPU, room=lambda: room)


def threes(dataset: Any, *steps: Any, batches: BatchReader | None, **options: Any) -> SplitLoader:
    return loader(dataset, *steps, **{"batches": batches, "batch_size": 3, **options})


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.indices, other.indices)
        for field, value in zip(one.sample, other.sample, strict=True):
            if isinstance(field, Tensor):
                assert field.dtype == value.dtype
                assert torch.equal(field, value)
            else:
                assert field == value


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [1, 2])
def test_batches_equal_the_samples_however_they_are_made(workers: int, number: int) -> None:
    dataset = Numbers()
    one_by_one = epoch(threes(dataset, *STEPS, batches=None, workers=workers), number)
    single = [GlobalHiss(), Fit(length=4)]  # the first one takes single samples
    epoch(threes(dataset, *single, batches=dataset))
    assert dataset.reads == 0
    assert_equal(one_by_one, epoch(threes(dataset, *STEPS, batches=dataset, workers=workers), number))
    assert dataset.reads == 3
    held = copy(dataset)
    assert_equal(one_by_one, epoch(threes(dataset, *STEPS, batches=held, workers=workers), number))
    assert dataset.reads == 3 + len(dataset)
    assert one_by_one[0].sample.values.dtype == torch.float32


def test_batches_are_read_in_a_thread_and_in_their_small_dtype() -> None:
    dataset, kinds = Numbers(), []

    class Kind(Fit):
        def batch(self, batch: PaddedBatch, random: Any) -> PaddedBatch:
            kinds.append(batch.values.dtype)
            return super().batch(batch, random)

    assert dataset.read_batch([0, 1]).values.values.dtype == torch.int16
    dataset.threads.clear()
    epoch(threes(dataset, Kind(length=4), batches=dataset))
    assert kinds == [torch.float32] * 3
    assert threading.current_thread() not in dataset.threads


def test_an_interrupted_pass_can_be_followed_by_another() -> None:
    dataset = Numbers()
    batches = threes(dataset, *STEPS, batches=dataset)
    expected = epoch(batches, 1)
    interrupted = iter(batches)
    next(interrupted)
    assert_equal(expected, epoch(batches, 1))


def test_a_defect_of_the_data_set_is_raised_unchanged() -> None:
    class Torn(Numbers):
        def read_batch(self, indices: Sequence[int]) -> Number:
            if 4 in indices:
                raise ProtocolError("sample 4 is torn.")
            return super().read_batch(indices)

    for batches in (Torn(), copy(Torn())):
        with pytest.raises(ProtocolError, match=r"^sample 4 is torn\.$"):
            epoch(threes(Torn(), *STEPS, batches=batches))


def test_loading_does_not_use_the_global_generator() -> None:
    state = torch.get_rng_state()
    epoch(threes(Numbers(), *STEPS, batches=Numbers()))
    epoch(threes(Numbers(), *STEPS, batches=None))
    assert torch.equal(state, torch.get_rng_state())


# On the device


def test_samples_are_copied_once_at_the_first_batch_in_its_dtype() -> None:
    dataset = Numbers()
    held = copy(dataset)
    assert dataset.reads == 0
    for _ in range(3):
        batch = held.read_batch([4, 0, 4])
        assert batch.values.values.dtype == torch.int16
        assert batch.values.lengths.tolist() == [9, 5, 9]
        assert not batch.values.values[1, :, 5:].any()
        assert (batch.labels, batch.nothing, batch.target.tolist()) == (
            [["label 4"], ["label 0"], ["label 4"]],
            None,
            [4, 0, 4],
        )
    assert dataset.reads == len(dataset)


def test_samples_of_different_dtypes_are_batched_in_a_common_dtype() -> None:
    class Mixed(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self._values[2] = (self._values[2] + 0.5).astype(np.float32)

        def read_batch(self, indices: Sequence[int]) -> Number:
            kinds = {self._values[index].dtype for index in indices}
            return super().read_batch(indices) if len(kinds) == 1 else collate([self[i] for i in indices])

    dataset = Mixed()
    held = copy(dataset)
    assert held.read_batch([0, 1]).values.values.dtype == torch.int16
    assert held.read_batch([1, 2]).values.values.dtype == torch.float32
    one_by_one = epoch(threes(dataset, *STEPS, batches=None))
    assert_equal(one_by_one, epoch(threes(dataset, *STEPS, batches=held)))
    assert_equal(one_by_one, epoch(threes(dataset, *STEPS, batches=dataset)))


@pytest.mark.parametrize("spare", [-1, 0])
def test_samples_that_do_not_fit_on_the_device_are_read_batch_by_batch(spare: int) -> None:
    dataset = Numbers()
    # int16 values and the target
    needed = sum(dataset[index].values.size * 2 + 8 for index in range(len(dataset)))
    held = copy(dataset, room=needed + spare)
    expected = dataset.read_batch([1, 2])
    found = held.read_batch([1, 2])
    assert dataset.reads == 1 + len(dataset) + (spare < 0)
    assert torch.equal(found.values.values, expected.values.values)
    assert found.labels == expected.labels


def test_all_passes_of_a_loader_send_their_batches_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA has 32 streams, and memory freed on one is not reused on another."""
    made: list[Transfer] = []

    class Noted(Transfer):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            made.append(self)

    monkeypatch.setattr("ignite_trainer.data.loader.Transfer", Noted)
    dataset = Numbers()
    numbers = threes(dataset, Fit(length=4), batches=dataset)
    for _ in range(3):
        epoch(numbers)
    assert len(made) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_batches_on_a_device_equal_those_on_the_cpu(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite_trainer.data.transfer.SHARE_OF_DEVICE", share)
    dataset, device = Numbers(), torch.device("cuda", 0)
    expected = epoch(threes(dataset, Fit(length=4), batches=dataset))
    found = threes(dataset, Fit(length=4), batches=batches_of(dataset, device), device=device)
    for one, other in zip(expected, epoch(found), strict=True):
        assert other.sample.values.is_cuda
        assert torch.equal(one.sample.values, other.sample.values.cpu())
    assert dataset.reads == 3 + (len(dataset) if share else 1 + 3)


# One ahead


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_next_batch_is_made_while_the_last_one_is_used_and_no_further(count: int) -> None:
    made = [threading.Event() for _ in range(count)]
    threads: set[threading.Thread] = set()
    lock = threading.Lock()

    def make(number: int) -> int:
        assert lock.acquire(blocking=False), "one is made at a time"
        threads.add(threading.current_thread())
        made[number].set()
        lock.release()
        return number * number

    found = []
    for number, square in enumerate(one_ahead(make, range(count))):
        found.append(square)
        if number + 1 < count:
            assert made[number + 1].wait(timeout=5)
        assert not any(event.is_set() for event in made[number + 2 :])
    assert found == [number * number for number in range(count)]
    assert threading.current_thread() not in threads


def test_an_error_is_raised_where_the_result_would_be_yielded() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("sample 2 cannot be read")
        return number

    batches = one_ahead(make, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match=r"^sample 2 cannot be read$"):
        next(batches)


# Workers


def test_workers_are_kept_for_the_next_epoch_and_end_on_close() -> None:
    class Processes(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return (os.getpid(), index)

    batches = threes(Processes(), batches=None, workers=1, batch_size=4)
    [[first]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 1)]
    [[second]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 2)]
    assert first == second
    batches.close()
    assert first not in [child.pid for child in multiprocessing.active_children()]
    [[third]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 1)]
    assert third != first
    batches.close()
