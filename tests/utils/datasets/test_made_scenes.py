"""Synthetic scenes are reproducible, have all sets of labels, and have the form that models accept."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from ignite_trainer.api.batch import PartialBatch, collate
from utils.datasets import MadeScenes

SHORT: dict[str, Any] = {"seconds": 0.1, "image_size": 32}


def test_scenes_depend_only_on_seed_split_and_index() -> None:
    first, again = (MadeScenes(scenes=count, incomplete=0.0, **SHORT)[5] for count in (30, 60))
    np.testing.assert_array_equal(first.audio, again.audio)
    assert torch.equal(first.image, again.image)
    for other in (MadeScenes(incomplete=0.0, seed=1, **SHORT), MadeScenes(train=False, **SHORT)):
        assert other[5].labels == first.labels
        assert not np.array_equal(other[5].audio, first.audio)
        assert not torch.equal(other[5].image, first.image)


def test_scenes_have_the_shapes_and_types_of_samples() -> None:
    scenes = MadeScenes(train=False, **SHORT)
    assert len(scenes) == 84
    assert scenes.record(3) == {"clip": "held-out scene 3"}
    for scene in map(scenes.__getitem__, range(21)):
        assert scene.audio.dtype == np.float32
        assert scene.audio.shape == (1, 4410)
        assert 32767 * 10 ** (-18.1 / 20) < np.abs(scene.audio).max() < 32767 * 10 ** (-2.9 / 20)
        assert scene.image.shape == (3, 32, 32)
        assert scene.image.dtype == torch.uint8
    with pytest.raises(IndexError, match="scene index 84 is out of range for 84 scenes"):
        scenes[84]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_all_sets_of_labels_occur_in_turn(most: int) -> None:
    sets = sum(1 for size in range(1, most + 1) for _ in itertools.combinations(range(6), size))
    scenes = MadeScenes(scenes=2 * sets, most_labels=most, **SHORT)
    counted = Counter(frozenset(scene.labels) for scene in map(scenes.__getitem__, range(2 * sets)))
    assert len(counted) == sets
    assert set(counted.values()) == {2}
    assert set().union(*counted) == set(scenes.class_names)


def test_each_class_has_its_own_colour() -> None:
    scenes = MadeScenes(train=False, most_labels=1, **SHORT)
    colours = []
    for number in range(6):
        image = scenes[number].image.double()
        ground = image.flatten(1).median(dim=1).values
        furthest = (image - ground[:, None, None]).abs().sum(dim=0).flatten().argsort()[-40:]
        colours.append(image.flatten(1)[:, furthest].mean(dim=1))
    distances = torch.cdist(torch.stack(colours), torch.stack(colours)) + 1000 * torch.eye(6)
    assert float(distances.min()) > 60


def test_a_share_of_the_training_scenes_lacks_sound_or_image() -> None:
    scenes = MadeScenes(scenes=200, incomplete=0.3, **SHORT)
    samples = [scenes[index] for index in range(200)]
    silent, blind = ([getattr(s, name) is None for s in samples] for name in ("audio", "image"))
    assert not any(a and b for a, b in zip(silent, blind, strict=True))
    assert 10 < sum(silent) < 50
    assert 10 < sum(blind) < 50
    batch = collate(samples)
    assert isinstance(batch.audio, PartialBatch)
    assert batch.audio.rows.tolist() == [row for row, is_silent in enumerate(silent) if not is_silent]
    held_out = MadeScenes(train=False, incomplete=0.9, **SHORT)
    assert all(held_out[index].audio is not None and held_out[index].image is not None for index in range(84))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"scenes": 0}, "scenes is 0; an integer from 1 to 100000 is expected."),
        ({"most_labels": 7}, "most_labels is 7; an integer from 1 to 6"),
        ({"incomplete": 1.5}, "incomplete is 1.5; a number from 0 to 1"),
        ({"seconds": True}, "seconds is True; a number from 0.1 to 60"),
        ({"image_size": 8.0}, "image_size is 8.0; an integer from 16"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MadeScenes(**args)


def test_scenes_have_as_many_captions_as_asked_for() -> None:
    plain, several, one = (MadeScenes(seconds=0.1, image_size=16, captions=count) for count in (0, 5, 1))
    assert (plain.described, several.described) == (False, True)
    assert len({scenes.digest for scenes in (plain, several, one)}) == 3
    index = next(index for index in range(len(plain)) if len(plain[index].labels) == 2)
    first, second = plain[index].labels
    assert tuple(one[index])[3] == f"{first} and {second}"
    assert tuple(several[index])[3] == (
        f"{first} and {second}",
        f"the sound of {second} and {first}",
        f"{first} and {second} can be heard",
        f"a recording of {second} and {first}",
        f"{first} and {second} nearby",
    )
    assert tuple(several[0])[3][1] == f"the sound of {plain[0].labels[0]}"
    with pytest.raises(ValueError, match="captions is 6; an integer from 0 to 5 is expected"):
        MadeScenes(captions=6)


def test_scenes_without_captions_have_the_digest_of_earlier_versions() -> None:
    """Runs of earlier versions can be resumed."""
    assert MadeScenes().digest[:16] == "c637373a41af0cc4"
