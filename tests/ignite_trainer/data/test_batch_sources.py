"""Whole batches from a data set or from its copy on a device: those of its samples, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from toy_research.augment import Fit, GlobalHiss, Hiss
from toy_research.signals import Tones

from ignite_trainer.api.batch import PaddedBatch, collate
from ignite_trainer.data.batch_sources import GivesBatches, OnDevice, batches_of
from ignite_trainer.data.loader import Batch, FieldTransform, SplitLoader
from ignite_trainer.data.transfer import Transfer
from ignite_trainer.support.errors import ProtocolError

CPU = torch.device("cpu")
STEPS: list[Any] = [Hiss(), Fit(length=16), Hiss(level=0.2)]


class Number(NamedTuple):
    values: Any
    nothing: Any
    labels: Any
    target: Any


class Numbers(Dataset[Number]):
    """Whole numbers, as float32 one by one and as int16 in batches; unequal lengths."""

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
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def loader(
    dataset: Any, *steps: Any, batches: GivesBatches | None, workers: int = 0, size: int = 3
) -> SplitLoader:
    return SplitLoader(
        dataset,
        [FieldTransform(apply=step) for step in steps],
        batch_size=size,
        workers=workers,
        shuffle=True,
        drop_last=False,
        seed=5,
        device=CPU,
        batches=batches,
    )


def copy(dataset: Any, *, room: float = 1e9) -> OnDevice:
    return OnDevice(dataset, CPU, room=lambda: room)


def epoch(batches: SplitLoader, number: int = 1) -> list[Batch]:
    batches.set_epoch(number)
    return list(batches)


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
def test_batches_are_those_of_the_samples_wherever_they_come_from(workers: int, number: int) -> None:
    dataset = Numbers()
    one_by_one = epoch(loader(dataset, *STEPS, batches=None, workers=workers), number)
    assert dataset.reads == 0
    assert_equal(one_by_one, epoch(loader(dataset, *STEPS, batches=dataset, workers=workers), number))
    assert dataset.reads == 3
    held = copy(dataset)
    assert_equal(one_by_one, epoch(loader(dataset, *STEPS, batches=held, workers=workers), number))
    assert held.held
    assert one_by_one[0].sample.values.dtype == torch.float32


def test_batches_are_read_beside_the_step_and_small() -> None:
    dataset, kinds = Numbers(), []

    class Kind(Fit):
        def batch(self, batch: PaddedBatch, random: Any) -> PaddedBatch:
            kinds.append(batch.values.dtype)
            return super().batch(batch, random)

    assert dataset.read_batch([0, 1]).values.values.dtype == torch.int16
    dataset.threads.clear()
    epoch(loader(dataset, Kind(length=4), batches=dataset))
    assert kinds == [torch.float32] * 3
    assert threading.current_thread() not in dataset.threads


def test_transforms_of_single_samples_are_given_single_samples() -> None:
    dataset = Numbers()
    steps = [GlobalHiss(), Fit(length=4)]
    expected = epoch(loader(dataset, *steps, batches=None))
    assert_equal(expected, epoch(loader(dataset, *steps, batches=dataset)))
    assert dataset.reads == 0


def test_a_pass_that_ends_early_can_be_followed_by_others() -> None:
    dataset = Numbers()
    batches = loader(dataset, *STEPS, batches=dataset)
    expected = epoch(batches, 1)
    interrupted = iter(batches)
    next(interrupted)
    assert_equal(expected, epoch(batches, 1))


def test_what_cannot_be_read_is_told_as_it_is() -> None:
    class Torn(Numbers):
        def read_batch(self, indices: Sequence[int]) -> Number:
            if 4 in indices:
                raise ProtocolError("sample 4 is torn.")
            return super().read_batch(indices)

    for batches in (Torn(), copy(Torn())):
        with pytest.raises(ProtocolError, match=r"^sample 4 is torn\.$"):
            epoch(loader(Torn(), *STEPS, batches=batches))


def test_loading_leaves_torchs_generator_alone() -> None:
    state = torch.get_rng_state()
    epoch(loader(Numbers(), *STEPS, batches=Numbers()))
    epoch(loader(Numbers(), *STEPS, batches=None))
    assert torch.equal(state, torch.get_rng_state())


# On the device


def test_samples_are_copied_once_at_the_first_batch_in_the_type_of_batches() -> None:
    dataset = Numbers()
    held = copy(dataset)
    assert (held.held, dataset.reads) == (False, 0)
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
    assert (held.held, dataset.reads) == (True, len(dataset))


def test_samples_that_are_stored_in_different_types_are_batched_in_one() -> None:
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
    one_by_one = epoch(loader(dataset, *STEPS, batches=None))
    assert_equal(one_by_one, epoch(loader(dataset, *STEPS, batches=held)))
    assert_equal(one_by_one, epoch(loader(dataset, *STEPS, batches=dataset)))


@pytest.mark.parametrize("spare", [-1, 0])
def test_samples_that_have_no_room_are_read_as_they_are_needed(spare: int) -> None:
    dataset = Numbers()
    needed = sum(dataset[index].values.size * 2 + 8 for index in range(len(dataset)))  # int16; the target
    held = copy(dataset, room=needed + spare)
    expected = dataset.read_batch([1, 2])
    found = held.read_batch([1, 2])
    assert held.held == (spare == 0)
    assert torch.equal(found.values.values, expected.values.values)
    assert found.labels == expected.labels


def test_only_a_data_set_that_gives_batches_is_asked_for_them() -> None:
    assert batches_of(Tones(), CPU) is None
    dataset = Numbers()
    assert batches_of(dataset, CPU) is dataset


def test_all_passes_of_a_loader_send_their_batches_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA has 32 streams for all, and what is freed on one of them is not used again on another."""
    made: list[Transfer] = []

    class Noted(Transfer):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            made.append(self)

    monkeypatch.setattr("ignite_trainer.data.loader.Transfer", Noted)
    dataset = Numbers()
    numbers = loader(dataset, Fit(length=4), batches=dataset)
    for _ in range(3):
        epoch(numbers)
    assert len(made) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_batches_on_a_device_are_those_of_the_cpu(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite_trainer.data.batch_sources.SHARE_OF_DEVICE", share)
    dataset, device = Numbers(), torch.device("cuda", 0)
    expected = epoch(loader(dataset, Fit(length=4), batches=dataset))
    transforms = [FieldTransform(apply=Fit(length=4))]
    source = batches_of(dataset, device)
    found = SplitLoader(
        dataset,
        transforms,
        batch_size=3,
        workers=0,
        shuffle=True,
        drop_last=False,
        seed=5,
        device=device,
        batches=source,
    )
    for one, other in zip(expected, epoch(found), strict=True):
        assert other.sample.values.is_cuda
        assert torch.equal(one.sample.values, other.sample.values.cpu())
    assert isinstance(source, OnDevice)
    assert source.held == (share > 0)


# Workers


def test_workers_stay_for_the_next_epoch_and_end_when_they_are_told() -> None:
    class Processes(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            import os

            return (os.getpid(), index)

    batches = loader(Processes(), batches=None, workers=1, size=4)
    [[first]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 1)]
    [[second]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 2)]
    assert first == second
    batches.close()
    import multiprocessing

    assert first not in [child.pid for child in multiprocessing.active_children()]
    [[third]] = [batch.sample[0].unique().tolist() for batch in epoch(batches, 1)]
    assert third != first
    batches.close()
