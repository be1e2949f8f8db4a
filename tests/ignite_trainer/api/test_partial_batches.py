"""Fields that only some samples have: collating, slicing and augmenting them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from toy_research.augment import Fit, Hiss

from ignite_trainer.api.batch import (
    PaddedBatch,
    PartialBatch,
    collate,
    field_values,
    rows_with_field,
    slice_batch,
)
from ignite_trainer.data.loader import Batch, FieldTransform
from ignite_trainer.support.errors import ProtocolError
from tests.ignite_trainer.data.loading import loader


class Scene(NamedTuple):
    sound: Any
    picture: Any
    label: Any


class Scenes(Dataset[Scene]):
    """Scenes of which every second has no sound and every third no image."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Scene:
        sound = None if index % 2 == 0 else np.full((1, 10 + index), index, np.float32)
        picture = None if index % 3 == 0 else np.full((3, 2, 2), index, np.uint8)
        return Scene(sound, picture, f"scene {index}")


def batches(size: int, workers: int = 0) -> list[Batch]:
    transforms = [FieldTransform(apply=apply, field="sound") for apply in (Hiss(level=0.1), Fit(length=16))]
    return list(loader(Scenes(), *transforms, batch_size=size, workers=workers, shuffle=False))


def test_a_field_that_only_some_samples_have_records_its_rows() -> None:
    batch = collate([Scenes()[index] for index in range(6)])
    assert isinstance(batch.sound, PartialBatch) and isinstance(batch.sound.values, PaddedBatch)
    assert batch.sound.rows.tolist() == [1, 3, 5]
    assert batch.sound.values.lengths.tolist() == [11, 13, 15]
    assert batch.picture.rows.tolist() == [1, 2, 4, 5]
    assert batch.label == [f"scene {index}" for index in range(6)]
    assert collate([Scenes()[0], Scenes()[6]]).sound is None
    assert rows_with_field(batch.sound, 6).tolist() == [1, 3, 5]
    assert rows_with_field(batch.label, 6).tolist() == list(range(6))
    assert rows_with_field(None, 6).tolist() == []
    assert field_values(None) is None and field_values(batch.label) is batch.label


def test_a_part_of_a_batch_equals_the_batch_of_its_samples() -> None:
    scenes = [Scenes()[index] for index in range(12)]
    whole = collate(scenes)
    for start, stop in ((0, 12), (0, 1), (1, 2), (2, 7), (5, 12)):
        part, alone = slice_batch(whole, slice(start, stop)), collate(scenes[start:stop])
        assert (
            rows_with_field(part.picture, stop - start).tolist()
            == rows_with_field(alone.picture, stop - start).tolist()
        )
        assert (field_values(part.picture) is None) == (field_values(alone.picture) is None)
        if field_values(alone.picture) is not None:
            assert torch.equal(field_values(part.picture).values, field_values(alone.picture).values)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_does_not_depend_on_the_rest_of_the_batch(workers: int) -> None:
    alone = {int(batch.indices): batch.sample.sound for batch in batches(1)}
    for batch in batches(5, workers):
        rows = rows_with_field(batch.sample.sound, len(batch.indices))
        for row, sound in zip(rows.tolist(), field_values(batch.sample.sound), strict=True):
            assert torch.equal(sound, alone[int(batch.indices[row])][0])
    assert alone[0] is None and alone[1].shape == (1, 1, 16)


def test_a_transform_of_a_field_without_samples_is_an_error() -> None:
    class Silent(Scenes):
        def __getitem__(self, index: int) -> Scene:
            return super().__getitem__(index)._replace(sound=None)

    with pytest.raises(ProtocolError, match=r'field is "sound", which is None in all of the samples checked'):
        loader(Silent(), FieldTransform(apply=Hiss(), field="sound"))
