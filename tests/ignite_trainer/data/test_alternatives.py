"""One of the alternatives in a field is drawn for each sample and epoch, by seed, epoch and sample alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Dataset

from ignite_trainer.api.batch import Alternatives, field_values, rows_with_field
from tests.ignite_trainer.data import loading

CAPTIONS = ("a dog", "a bark", "barking", "an animal", "a pet")


class Described(Dataset[Any]):
    """Samples with five texts, with one, and with none."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        texts = (Alternatives(f"{text} {index}" for text in CAPTIONS), f"rain {index}", None)
        return np.full((1, 4), float(index), np.float32), texts[index % 3]


def twice(sound: Any) -> Any:
    return 2 * sound


def drawn(number: int, *steps: Any, start: int = 0, **options: Any) -> dict[int, Any]:
    """Return the texts of an epoch's samples that have any, by index."""
    settings: dict[str, Any] = {"batch_size": 8, "seed": 3, "draws": True, **options}
    found: dict[int, Any] = {}
    for batch in loading.epoch(loading.loader(Described(), *steps, **settings), number, start):
        texts = batch.sample[1]
        rows = batch.indices[rows_with_field(texts, len(batch.indices))]
        found |= dict(zip(rows.tolist(), field_values(texts) or (), strict=True))
    return found


def test_a_draw_depends_on_seed_epoch_and_sample_alone() -> None:
    first = drawn(1)
    for options in ({"batch_size": 5}, {"workers": 1}, {"shuffle": False}):
        assert drawn(1, **options) == first
    assert drawn(1, twice, twice) == first  # whatever transforms there are
    assert drawn(2) != first
    assert drawn(1, seed=4) != first


def test_every_alternative_is_drawn_about_equally_often() -> None:
    counts = Counter(
        text.rpartition(" ")[0] for epoch in range(50) for text in drawn(epoch).values() if "rain" not in text
    )
    assert sum(counts.values()) == 50 * 20
    assert counts.keys() == set(CAPTIONS)
    assert all(150 <= count <= 250 for count in counts.values())  # 200, and four standard deviations of 12.6


def test_single_values_and_missing_ones_stay() -> None:
    found = drawn(1)
    assert {index for index in found if index % 3 == 2} == set()
    assert all(text == f"rain {index}" for index, text in found.items() if index % 3 == 1)
    assert all(str(index) == text.rpartition(" ")[2] for index, text in found.items())


def test_evaluation_gets_all_alternatives() -> None:
    found = drawn(0, draws=False)
    assert found[0] == tuple(f"{text} 0" for text in CAPTIONS)
    assert found[1] == "rain 1"


def test_a_resumed_epoch_draws_what_a_whole_one_does() -> None:
    whole, rest = drawn(2), drawn(2, start=3)
    assert 0 < len(rest) < len(whole)
    assert rest.items() <= whole.items()


@pytest.mark.parametrize("index", [0, 3])
def test_a_sample_shown_in_a_report_has_the_text_of_its_epoch(index: int) -> None:
    loader = loading.loader(Described(), batch_size=8, seed=3, draws=True)
    assert loader.one(index, epoch=4)[1] == [drawn(4)[index]]
