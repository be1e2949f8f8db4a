"""Loading: augmentation depends on (seed, epoch, index), not on workers, batch size or device."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from toy_research.augment import Fit, GlobalHiss, Hiss, reverse_name, scale
from toy_research.signals import Tones

from ignite_trainer.api.batch import BatchTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.loader import Batch, FieldTransform, SplitLoader
from ignite_trainer.data.samples import PlacedTransform, Reference, TransformedSamples
from ignite_trainer.support.errors import ProtocolError
from tests.ignite_trainer.data import loading
from tests.ignite_trainer.data.loading import epoch

BATCHED: list[Any] = [Hiss(), Fit(length=16), Hiss(level=0.2)]
FOREIGN: list[Any] = [
    GlobalHiss(),
    GlobalHiss(level=0.2),
    functools.partial(scale, factor=2.0),
    Fit(length=16),
]
MIXED: list[Any] = [Hiss(), Fit(length=16), GlobalHiss(), Hiss(level=0.3)]


class Samples(Dataset[Any]):
    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def loader(*steps: Any, dataset: Dataset[Any] | None = None, **options: Any) -> SplitLoader:
    return loading.loader(Tones() if dataset is None else dataset, *steps, **options)


def signals(batches: list[Batch]) -> dict[int, Tensor]:
    """Return the first field of every sample, keyed by index."""
    return {
        int(index): row
        for batch in batches
        for index, row in zip(batch.indices, batch.sample[0], strict=True)
    }


def assert_equal(first: dict[int, Tensor], second: dict[int, Tensor]) -> None:
    assert first.keys() == second.keys()
    for index, signal in first.items():
        torch.testing.assert_close(signal, second[index], rtol=0, atol=0)


# Reproducible


@pytest.mark.parametrize("steps", [BATCHED, FOREIGN, MIXED], ids=["batched", "foreign", "mixed"])
def test_batches_are_the_same_with_and_without_workers(steps: list[Any]) -> None:
    alone, helped = epoch(loader(*steps)), epoch(loader(*steps, workers=2))
    assert [batch.indices.tolist() for batch in alone] == [batch.indices.tolist() for batch in helped]
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.sample.signal, other.sample.signal)
        assert torch.equal(one.sample.target, other.sample.target)
        assert one.sample.name == other.sample.name


@pytest.mark.parametrize("steps", [BATCHED, FOREIGN, MIXED], ids=["batched", "foreign", "mixed"])
def test_augmentation_does_not_depend_on_batch_size_or_order(steps: list[Any]) -> None:
    batches = loader(*steps)
    expected = signals(epoch(batches))
    variants: list[dict[str, Any]] = [
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 20, "shuffle": False},
    ]
    for options in variants:
        assert_equal(expected, signals(epoch(loader(*steps, **options))))
    epoch(batches, 2)
    assert_equal(expected, signals(epoch(batches, 1)))


def test_a_transform_returns_the_same_in_a_worker_and_on_the_device() -> None:
    on_device = signals(epoch(loader(Hiss(), Fit(length=16))))
    in_worker = signals(epoch(loader(Hiss(), Fit(length=16), lambda value: value)))
    assert_equal(on_device, in_worker)


@pytest.mark.parametrize("steps", [BATCHED, FOREIGN], ids=["batched", "foreign"])
def test_epochs_and_seeds_augment_differently(steps: list[Any]) -> None:
    one = signals(epoch(loader(*steps)))
    for other in (signals(epoch(loader(*steps), 2)), signals(epoch(loader(*steps, seed=6)))):
        assert all(not torch.equal(one[index], other[index]) for index in one)


def test_each_transform_has_separate_random_numbers() -> None:
    once = signals(epoch(loader(Hiss(level=1.0), Fit(length=16, train=False))))
    clean = signals(epoch(loader(Fit(length=16, train=False))))
    twice = signals(epoch(loader(Hiss(level=1.0), Hiss(level=1.0), Fit(length=16, train=False))))
    for index, signal in clean.items():
        assert not torch.allclose(twice[index] - signal, 2 * (once[index] - signal))


def streams_of_tasks(batches: list[Batch]) -> dict[int, float]:
    """Return the next number of each sample's stream for tasks, keyed by index."""
    found: dict[int, float] = {}
    for batch in batches:
        assert batch.random is not None
        numbers = batch.random.select(torch.arange(len(batch.indices))).uniform().tolist()
        found.update(zip(batch.indices.tolist(), numbers, strict=True))
    return found


def test_streams_for_tasks_depend_only_on_the_sample_the_epoch_and_the_seed() -> None:
    batches = loader(Fit(length=16))
    expected = streams_of_tasks(epoch(batches))
    assert len(set(expected.values())) == len(expected) == len(Tones())
    variants: list[dict[str, Any]] = [{"batch_size": 3}, {"workers": 2}, {"batch_size": 20, "shuffle": False}]
    for options in variants:
        assert streams_of_tasks(epoch(loader(Fit(length=16), **options))) == expected
    assert streams_of_tasks(epoch(loader(lambda value: value[:, :4]))) == expected
    resumed = streams_of_tasks(epoch(batches, start=2))
    assert resumed == {index: expected[index] for index in resumed}
    assert 0 < len(resumed) < len(expected)
    other = streams_of_tasks(epoch(batches, 2)), streams_of_tasks(epoch(loader(Fit(length=16), seed=6)))
    assert all(one[index] != expected[index] for one in other for index in expected)
    of_transforms = SampleRandom.of(seed=5, epoch=1, indices=sorted(expected))
    for position in range(-5, 20):
        numbers = of_transforms.stream(position).uniform().tolist()
        assert not set(numbers) & set(expected.values())
    assert batches.streams([7, 2], epoch=1).uniform().tolist() == [expected[7], expected[2]]


def test_a_part_of_a_batch_has_the_streams_of_its_samples() -> None:
    (batch,) = epoch(loader(Fit(length=16), batch_size=20))
    part = batch.part(slice(3, 8))
    expected = streams_of_tasks([batch])
    assert streams_of_tasks([part]) == {int(index): expected[int(index)] for index in batch.indices[3:8]}
    assert torch.equal(part.sample.signal, batch.sample.signal[3:8])
    assert batch._replace(random=None).part(slice(0, 2)).random is None


def test_equal_seeds_have_equal_orders_and_epochs_differ() -> None:
    def order(number: int, **options: Any) -> list[int]:
        found = [
            int(index)
            for batch in epoch(loader(Fit(length=16), **options), number)
            for index in batch.indices
        ]
        assert sorted(found) == list(range(20))
        return found

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(1, seed=6)
    assert order(1, shuffle=False) == order(2, shuffle=False) == list(range(20))


def test_the_states_of_global_generators_are_restored() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002

    samples = TransformedSamples(Tones(), [PlacedTransform(GlobalHiss())], seed=5)
    before = states()
    samples[Reference(1, 0)]
    assert states() == before

    def failing(_: Any) -> None:
        torch.rand(3)
        random.random()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TransformedSamples(Tones(), [PlacedTransform(failing)], seed=5)[Reference(1, 0)]
    assert states() == before


def test_the_sample_seeds_the_global_generators() -> None:
    first = signals(epoch(loader(*FOREIGN)))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    assert_equal(first, signals(epoch(loader(*FOREIGN))))


# Batches


def test_an_incomplete_batch_is_kept_or_dropped() -> None:
    for drop_last, sizes in ((False, [8, 8, 4]), (True, [8, 8])):
        batches = loader(Fit(length=16), batch_size=8, drop_last=drop_last)
        assert [len(batch.indices) for batch in epoch(batches)] == sizes
        assert len(batches) == len(sizes)


def test_fields_are_collated_by_their_type() -> None:
    (batch,) = epoch(loader(Fit(length=16), batch_size=20, shuffle=False))
    dataset, sample = Tones(), batch.sample
    assert type(sample) is type(dataset[0])
    assert sample.signal.shape == (20, 1, 16)
    assert sample.signal.dtype == torch.float32
    assert sample.picture is None
    assert sample.name == [dataset[index].name for index in range(20)]
    assert sample.target.tolist() == [dataset[index].target for index in range(20)]
    assert sample.target.dtype == torch.int64
    assert sample.weight.tolist() == [dataset[index].weight for index in range(20)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], torch.tensor([1, 2])),
        ([True, False], torch.tensor([True, False])),
        ([np.int64(1), np.int64(2)], torch.tensor([1, 2])),
        ([np.float32(0.5), np.float32(2)], torch.tensor([0.5, 2.0])),
        ([np.bool_(True), np.bool_(False)], torch.tensor([True, False])),
        ([torch.tensor(1), torch.tensor(2)], torch.tensor([1, 2])),
        ([np.array(1.5), np.array(2.5)], torch.tensor([1.5, 2.5], dtype=torch.float64)),
        ([np.arange(2), np.arange(2)], torch.tensor([[0, 1], [0, 1]])),
        (["a", "b"], ["a", "b"]),
        ([["a"], ["b", "c"]], [["a"], ["b", "c"]]),
        ([None, None], None),
    ],
)
@pytest.mark.parametrize("kind", [tuple, list])
def test_fields_of_any_type_are_collated(values: list[Any], expected: Any, kind: Callable[..., Any]) -> None:
    dataset = Samples([kind((np.zeros(3), value)) for value in values])
    (batch,) = epoch(loader(dataset=dataset, shuffle=False))
    assert isinstance(batch.sample, tuple | list)
    found = batch.sample[1]
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype
    else:
        assert found == expected


def test_samples_of_unequal_length_are_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        epoch(loader(Hiss(), batch_size=20))  # the folds skip multiples of 3, and thereby length 16
    assert str(caught.value) == (
        "Transforms: one batch has samples of length 17 to 21, but all must have the same length, because "
        "padding would change the model's input. Add transforms that make the lengths equal."
    )
    assert len(epoch(loader(Hiss(), batch_size=1))) == 20


def test_samples_of_unequal_length_are_accepted_on_request() -> None:
    [batch] = epoch(loader(Hiss(), batch_size=20, unequal_lengths=True))
    signal = batch.sample.signal
    assert isinstance(signal, PaddedBatch)
    assert (int(signal.lengths.min()), int(signal.lengths.max())) == (17, 21)
    alone = epoch(loader(Hiss(), batch_size=1, unequal_lengths=True))
    assert all(isinstance(one.sample.signal, Tensor) for one in alone)
    for one in alone:
        row = int((batch.indices == one.indices).nonzero())
        assert torch.equal(signal.values[row, :, : signal.lengths[row]], one.sample.signal[0])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((2, 5), np.float32), np.zeros((1, 5), np.float32), "float32 [1, L] and float32 [2, L]"),
        (np.zeros((1, 5), np.float32), np.zeros(5, np.float32), "float32 [L] and float32 [1, L]"),
        (np.zeros(5, np.int16), np.zeros(5, np.float32), "float32 [L] and int16 [L]"),
    ],
)
def test_samples_that_differ_in_more_than_length_are_refused(first: Any, second: Any, message: str) -> None:
    for samples in ([first, second], [second, first]):
        with pytest.raises(ProtocolError) as caught:
            epoch(loader(dataset=Samples([(sample,) for sample in samples])))
        alike = "samples in a batch must have the same dtype and shape, except for the length L"
        assert str(caught.value) == f"{alike}; got {message}."


def test_a_sample_is_a_tuple() -> None:
    with pytest.raises(
        ProtocolError, match=r"Dataset\.class returns samples of type dict; each sample must be a tup"
    ):
        epoch(loader(dataset=Samples([{"signal": np.zeros(3)}])))


def test_padding_is_zero_and_lengths_are_returned() -> None:
    seen: list[PaddedBatch] = []

    class Watch(BatchTransform):
        def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
            seen.append(batch)
            assert len(random) == len(batch.lengths)
            return batch

    epoch(loader(Watch(), Fit(length=16), batch_size=20, shuffle=False))
    (batch,) = seen
    for index, (row, length) in enumerate(zip(batch.values, batch.lengths, strict=True)):
        signal = torch.from_numpy(Tones()[index].signal)
        assert length == signal.shape[-1]
        assert torch.equal(row[:, :length], signal)
        assert not row[:, length:].any()
    assert batch.lengths.dtype == torch.int64


# Fields


class Pair(NamedTuple):
    sound: Any
    image: Any
    nothing: None = None


def pairs() -> Dataset[Any]:
    return Samples(
        [Pair(np.full(4, index, np.float32), np.full((3, 2), index, np.float32)) for index in range(4)]
    )


def on(field: str | None, apply: Any) -> FieldTransform:
    return FieldTransform(apply=apply, field=field, where="Transforms[0]")


def test_a_transform_acts_on_the_named_field_or_the_first() -> None:
    double = functools.partial(scale, factor=2.0)
    for field, sound, image in ((None, 2, 1), ("sound", 2, 1), ("image", 1, 2)):
        (batch,) = epoch(loader(on(field, double), dataset=pairs(), shuffle=False))
        assert batch.sample.sound[3, 0] == 3 * sound
        assert batch.sample.image[3, 0, 0] == 3 * image
        assert batch.sample.nothing is None
    (batch,) = epoch(loader(on("image", Fit(length=1)), dataset=pairs(), shuffle=False))
    assert batch.sample.image.shape == (4, 3, 1)
    assert batch.sample.sound.shape == (4, 4)


def test_a_transformed_field_need_not_be_numeric() -> None:
    (batch,) = epoch(loader(Fit(length=16), on("name", reverse_name), batch_size=20, shuffle=False))
    assert batch.sample.name[2] == Tones()[2].name[::-1]


def test_an_unknown_field_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(ProtocolError) as caught:
        loader(on("imag", Hiss()), dataset=pairs())
    assert str(caught.value) == (
        'Transforms[0].field is "imag", which the samples do not have; did you mean "image"?'
    )


def test_a_field_that_is_always_none_cannot_be_transformed() -> None:
    with pytest.raises(ProtocolError) as caught:
        loader(on("nothing", Hiss()), dataset=pairs())
    assert str(caught.value) == (
        'Transforms[0].field is "nothing", which is None in all of the samples checked, so there is nothing '
        "to transform."
    )


def test_transforms_are_tried_on_readable_samples_that_have_their_fields() -> None:
    class Sparse(Samples):
        def __getitem__(self, index: int) -> Any:
            if index in (0, 3):
                raise OSError(f"{index} is cut off")
            return super().__getitem__(index)

    def record(value: Any) -> Any:
        tried.append(float(value.flat[0]))
        return value

    tried: list[float] = []
    dataset = Sparse([Pair(None if n < 2 else np.full((1, 3), n), np.full((1, 4), n)) for n in range(6)])
    loader(on("sound", record), on("image", record), dataset=dataset).try_transforms()
    assert tried == [1, 2, 2]

    def refuse(_: Any) -> None:
        raise ProtocolError("it has 2 channels")

    with pytest.raises(ProtocolError, match=r"^Transforms\[0\]: it has 2 channels$"):
        loader(on("image", refuse), dataset=dataset).try_transforms()
