"""Samples are mixed with neighbours in the epoch's order, whatever the batches, workers and restarts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from toy_research.augment import Blend, Hiss
from toy_research.protocols import draw_toy
from toy_research.ranks import on_ranks

from ignite_trainer.api.batch import (
    Alternatives,
    Mixed,
    collate,
    field_values,
    rows_with_field,
    slice_batch,
)
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.loader import Batch, FieldTransform, SplitLoader
from ignite_trainer.data.mixing import mixtures
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.runs.construction import build_transforms, require_even_parts
from ignite_trainer.support.errors import ProtocolError, SampleUnreadable
from ignite_trainer.training.forward import _share
from tests.ignite_trainer.data import loading

COUNT = 24


class Scene(NamedTuple):
    """A sample; its signal is its position plus a ramp."""

    signal: Any
    picture: Any
    names: Any
    text: Any = None


class Scenes(Dataset[Scene]):
    """Scenes, some of which are unreadable, silent or without a text."""

    def __init__(self, *, gone: Sequence[int] = (), silent: Sequence[int] = (), texts: bool = False) -> None:
        self._gone, self._silent, self._texts = gone, silent, texts

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Scene:
        if index in self._gone:
            raise OSError(f"{index} is cut off")
        signal = None if index in self._silent else index + np.linspace(0, 0.5, 6, dtype=np.float32)[None]
        text = Alternatives((f"a {index}", f"the {index}")) if self._texts and index % 5 else None
        return Scene(signal, np.full((3, 2), index, np.float32), [f"name {index}"], text)


class InBatches(Scenes):
    """Scenes that can be read in whole batches."""

    def read_batch(self, indices: Sequence[int]) -> Any:
        return collate([self[index] for index in indices])


class Streaming(Scenes):
    """Streamed scenes."""

    lanes = 2

    def epoch_order(self, key: int | None) -> Any:
        return np.random.default_rng(key).permutation(COUNT) if key is not None else np.arange(COUNT)

    def stream(self, indices: Sequence[int]) -> Iterator[Any]:
        return (partial(self.__getitem__, int(index)) for index in indices)


class Row(NamedTuple):
    """A sample as a step receives it."""

    signal: Tensor | None
    names: Mixed
    text: Mixed | None


def loader(*steps: Any, dataset: Scenes | None = None, **options: Any) -> SplitLoader:
    dataset = dataset or Scenes()
    skipped = UnreadableSamples(dataset, split="training", max_share=1.0)
    settings: dict[str, Any] = {"drop_last": True, "draws": True, "unreadable": skipped, **options}
    return loading.loader(dataset, *(steps or (Hiss(), Blend())), **settings)


def rows(batches: list[Batch]) -> dict[int, Row]:
    """Return every sample of an epoch by its position."""

    def by_row(field: Any, count: int) -> dict[int, Any]:
        values = field_values(field)
        return dict(
            zip(rows_with_field(field, count).tolist(), () if values is None else values, strict=True)
        )

    found = {}
    for batch in batches:
        count = len(batch.indices)
        signals, texts = by_row(batch.sample.signal, count), by_row(batch.sample.text, count)
        for row, index in enumerate(batch.indices.tolist()):
            found[index] = Row(signals.get(row), batch.sample.names[row], texts.get(row))
    return found


def epoch_rows(*steps: Any, epoch: int = 1, start: int = 0, **options: Any) -> dict[int, Row]:
    return rows(loading.epoch(loader(*steps, **options), epoch, start))


def assert_equal(found: dict[int, Row], expected: dict[int, Row]) -> None:
    assert found
    for index, row in found.items():
        assert row[1:] == expected[index][1:]
        if row.signal is None:
            assert expected[index].signal is None
        else:
            assert torch.equal(row.signal, torch.as_tensor(expected[index].signal))


def test_each_sample_is_mixed_with_its_neighbour_by_its_own_share() -> None:
    batches = loading.epoch(loader(Blend(), batch_size=6))
    order = [index for batch in batches for index in batch.indices.tolist()]
    found, dataset = rows(batches), Scenes()
    for place, index in enumerate(order):
        partner = order[place ^ 1]
        random = SampleRandom.of(seed=5, epoch=1, indices=[index]).stream(0)
        random.uniform()
        share = float(random.uniform(0.5, 1.0))
        row = found[index]
        assert row.names == Mixed(
            ([f"name {index}"], [f"name {partner}"]), (share, 1 - share), (index, partner)
        )
        assert sum(row.names.weights) == 1.0
        assert row.signal is not None
        expected = share * dataset[index].signal + (1 - share) * dataset[partner].signal
        np.testing.assert_allclose(row.signal.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("texts", [False, True])
def test_batch_size_workers_reading_and_restarts_change_nothing(texts: bool) -> None:
    made = partial(Scenes, texts=texts, silent=(3, 8), gone=(11,))
    expected = epoch_rows(dataset=made())
    assert len(expected) == COUNT - 1
    variants: list[dict[str, Any]] = [{"batch_size": 2}, {"batch_size": 12}, {"workers": 2}]
    for options in variants:
        assert_equal(epoch_rows(dataset=made(), **options), expected)
    assert_equal(epoch_rows(dataset=made(), start=3), expected)
    names = {index: row.names for index, row in expected.items()}
    for options in ({"epoch": 2}, {"seed": 6}):
        others = epoch_rows(dataset=made(), **options)
        assert {index: row.names for index, row in others.items()} != names
    if not texts:
        whole = InBatches(silent=(3, 8), gone=(11,))
        assert_equal(epoch_rows(dataset=whole, batches=whole, batch_size=8, draws=False), expected)


def test_a_sample_stays_as_it_is_if_its_partner_is_unreadable_or_silent() -> None:
    order = [index for batch in loading.epoch(loader()) for index in batch.indices.tolist()]
    partners = {index: order[place ^ 1] for place, index in enumerate(order)}
    gone, silent = order[4], order[10]
    found = epoch_rows(Blend(), dataset=Scenes(gone=[gone], silent=[silent]), batch_size=12)
    for index, row in found.items():
        if index in (partners[gone], silent, partners[silent]):
            assert row.names == Mixed(([f"name {index}"],), (1.0,), (index,))
        else:
            assert row.names.samples == (index, partners[index])
    left = found[partners[silent]].signal
    assert left is not None
    np.testing.assert_array_equal(left.numpy(), Scenes()[partners[silent]].signal)


def test_samples_are_not_mixed_if_only_one_of_them_has_a_text() -> None:
    found = epoch_rows(dataset=Scenes(texts=True))
    for index, row in found.items():
        assert (row.text is None) == (index % 5 == 0)
        if row.text is not None:
            assert (row.text.weights, row.text.samples) == (row.names.weights, row.names.samples)
            assert [value.split()[1] for value in row.text.values] == [str(at) for at in row.text.samples]
        if len(row.names.samples) == 2:
            assert len({sample % 5 == 0 for sample in row.names.samples}) == 1


def test_the_last_sample_of_an_odd_batch_stays_as_it_is() -> None:
    batches = loading.epoch(loader(batch_size=5))
    for batch in batches:
        sizes = [len(row.values) for row in batch.sample.names]
        assert sizes == [2, 2, 2, 2, 1]


def test_unmixed_rows_have_a_single_value() -> None:
    found = epoch_rows(Blend(p=0.5))
    sizes = [len(row.names.values) for row in found.values()]
    assert {1, 2} == set(sizes)
    for index, row in found.items():
        assert row.names.samples[0] == index
        assert len(row.names.values) == len(row.names.weights) == len(row.names.samples)
        assert sum(row.names.weights) == 1.0


def test_a_streamed_data_set_mixes_neighbours_in_a_batch() -> None:
    expected = epoch_rows(dataset=Streaming(silent=(3,)), batch_size=4)
    for batch in loading.epoch(loader(dataset=Streaming(), batch_size=4)):
        indices = batch.indices.tolist()
        assert [row.samples[1] for row in batch.sample.names] == [indices[at ^ 1] for at in range(4)]
    assert_equal(epoch_rows(dataset=Streaming(silent=(3,)), batch_size=4, workers=2), expected)
    assert_equal(epoch_rows(dataset=Streaming(silent=(3,)), batch_size=4, start=2), expected)


@pytest.mark.parametrize("kind", [Scenes, Streaming])
@pytest.mark.parametrize("batch_size", [4, 5])
def test_one_sample_is_mixed_as_in_its_epoch(kind: type[Scenes], batch_size: int) -> None:
    options: dict[str, Any] = {"dataset": kind(silent=(3,), gone=(11,), texts=True), "batch_size": batch_size}
    single = loader(**options)
    for number in (1, 2):
        expected = epoch_rows(epoch=number, **options)
        for index in range(COUNT):
            if index not in expected:
                continue
            sample = single.one(index, epoch=number)
            found = rows([Batch(torch.tensor([index]), sample)])
            assert_equal(found, expected)
            assert len(sample.picture) == 1
            assert float(sample.picture[0, 0, 0]) == index
    assert single.one(0, epoch=1, transformed=False).names == [["name 0"]]
    with pytest.raises(SampleUnreadable, match="11 cannot be read: 11 is cut off"):
        single.one(11, epoch=1)


def test_parts_of_a_batch_keep_their_mixtures() -> None:
    (batch, *_) = loading.epoch(loader(batch_size=8, dataset=Scenes(silent=(3,), texts=True)))
    whole = rows([batch])
    for part in (slice(0, 3), slice(3, 8)):
        sliced = Batch(batch.indices[part], slice_batch(batch.sample, part))
        assert_equal(rows([sliced]), whole)


def test_a_mixture_is_described_by_the_shares_of_its_values() -> None:
    names = [Mixed((["dog"], ["rain", "wind"]), (0.714, 0.286), (3, 4))]
    assert mixtures(Scene(None, None, names)) == {"names": "dog 0.71, rain + wind 0.29"}
    text = [Mixed(("a dog",), (1.0,), (3,))]
    assert mixtures(Scene(None, None, names, text)).keys() == {"names"}
    assert mixtures(Scene(torch.zeros(1, 1, 3), None, [["dog"]])) == {}


def read_in_parts(batch_size: int) -> tuple[dict[int, Row], list[Any]]:
    """Return this process's samples in an epoch, and the names in each batch of all processes."""
    batches = loading.epoch(
        loader(dataset=Scenes(silent=(3,), gone=(11,), texts=True), batch_size=batch_size)
    )
    shared = [_share(batch, {}, torch.device("cpu"))[0].sample for batch in batches]
    return rows(batches), [(list(sample.names), field_values(sample.text)) for sample in shared]


@pytest.mark.processes
def test_two_processes_mix_as_one_does(tmp_path: Path) -> None:
    expected, names = read_in_parts(8)
    parts = on_ranks(2, tmp_path, read_in_parts, 8)
    found = parts[0][0] | parts[1][0]
    assert found.keys() == expected.keys()
    assert_equal(found, expected)
    assert parts[0][1] == parts[1][1] == names


def require_pairs(folder: Path) -> list[str]:
    """Return the messages for batches of 6 and of 8."""
    messages = []
    for batch in (6, 8):
        blueprint = draw_toy(folder, Transforms=[BLEND], Setup__batch_train=batch, Setup__batch_of="all")
        try:
            require_even_parts(blueprint, build_transforms(blueprint)["train"])
        except ProtocolError as error:
            messages.append(str(error))
    return messages


@pytest.mark.processes
def test_each_process_needs_an_even_number_of_samples(tmp_path: Path) -> None:
    message = (
        "Transforms[0] mixes pairs of samples, but 2 processes share batches of 6; each needs an even number "
        "of samples. Set the batch size with -b accordingly."
    )
    assert on_ranks(2, tmp_path, require_pairs, tmp_path) == [[message], [message]]
    assert require_pairs(tmp_path) == []


def test_numbers_cannot_be_mixed() -> None:
    numbered: Any = [Scene(np.zeros((1, 3), np.float32), None, 3)]
    with pytest.raises(ProtocolError) as caught:
        loading.loader(numbered, Blend())
    assert str(caught.value) == (
        'Transforms[0] mixes samples, but the field "names" is a number, which would not be mixed. Let the '
        'data set return a list, such as ["dog"], or remove the transform.'
    )


def test_samples_in_which_nothing_would_record_the_mixture_cannot_be_mixed() -> None:
    unlabelled: Any = [Scene(np.zeros((1, 3), np.float32), None, None)]
    with pytest.raises(ProtocolError, match=r"they have no labels or texts, in which the shares"):
        loading.loader(unlabelled, Blend())


def test_a_field_without_arrays_cannot_be_mixed() -> None:
    on_names = FieldTransform(apply=Blend(), field="names", where="Transforms[1]")
    with pytest.raises(ProtocolError) as caught:
        loader(Hiss(), on_names).try_transforms()
    assert str(caught.value) == "Transforms[1]: it transforms arrays, but its field has values of type list."
    loader(Hiss(), Blend(), dataset=Scenes(gone=[0])).try_transforms()


BLEND = {"class": "toy_research.augment.Blend", "test": False}
HISS = {"class": "toy_research.augment.Hiss", "test": False}
SINGLE = {"class": "toy_research.augment.GlobalHiss", "test": False}


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            [HISS, {**BLEND, "test": True}],
            'Transforms[1] mixes samples, which only training may do; add "test": false to it.',
        ),
        (
            [BLEND, HISS, SINGLE],
            "Transforms[0] mixes samples, so it must come after Transforms[2], which takes single samples.",
        ),
        ([BLEND, HISS, BLEND], "Transforms[2] and Transforms[0] both mix samples; remove one of them."),
    ],
)
def test_a_transform_that_mixes_has_its_place(
    tmp_path: Path, transforms: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        build_transforms(draw_toy(tmp_path, Transforms=transforms))
    assert str(caught.value) == message


def test_a_transform_that_mixes_may_come_between_transforms_of_batches(tmp_path: Path) -> None:
    built = build_transforms(draw_toy(tmp_path, Transforms=[SINGLE, HISS, BLEND, HISS]))
    assert [type(transform.apply) for transform in built["train"]][2] is Blend
    assert built["test"] == []
