"""Streams of samples that the trainer gives to tasks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from toy_research.learning import Jittered
from toy_research.lonely import Scoring, SoundAndPicture, batch_of
from toy_research.protocols import draw_toy, run_toy

from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.loader import Batch
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.run_start import RunGallery
from ignite_trainer.training.forward import training_step
from ignite_trainer.training.lone_samples import LoneSamples
from tests.ignite_trainer.training.stepping import setup, tones, towers, train

JITTERED = {"class": "toy_research.learning.Jittered", "args": {}}


def batch(number: int = 0) -> Batch:
    streams = SampleRandom.of(seed=1, epoch=1, indices=range(12 * number, 12 * number + 12))
    return tones(12, seed=number)._replace(random=streams)


def noise(number: int = 0) -> list[float]:
    """Return the noise of a batch; a longer draw begins with the numbers of a shorter one."""
    random = batch(number).random
    assert random is not None
    found: list[float] = random.select(torch.arange(12)).normal(1)[:, 0].tolist()
    return found


def test_each_batch_has_the_streams_of_its_samples() -> None:
    task = Jittered()
    train(towers(), [batch(0), batch(1), batch(2)], task=task, accumulate=2)
    assert task.drawn == [noise(0), noise(1), noise(2)]
    assert task.random is None


def test_both_passes_through_a_part_draw_the_same_numbers() -> None:
    task = Jittered()
    train(towers(), [batch(0), batch(1)], task=task, chunk=5)  # three parts of four samples
    expected = [noise(number)[at : at + 4] for number in (0, 1) for _ in range(2) for at in (0, 4, 8)]
    assert task.drawn == expected
    assert task.random is None


def test_training_in_parts_ends_at_the_same_weights() -> None:
    weights = []
    for chunk in (None, 5):
        model = towers()
        train(model, [batch(0), batch(1)], task=Jittered(), chunk=chunk)
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-6)


class Refused(Scoring):
    """A task that notes the next number of each sample's stream."""

    def __init__(self) -> None:
        self.drawn: list[list[float]] = []

    def embed(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        assert self.random is not None
        self.drawn.append(self.random.uniform().tolist())
        return super().embed(model, batch)


def test_a_repeated_step_draws_the_same_numbers() -> None:
    task, model = Refused(), SoundAndPicture()
    streams = SampleRandom.of(seed=1, epoch=1, indices=range(4))
    lonely = batch_of(0, 1, 2, 3)._replace(random=streams)  # one sound, which batch norm refuses
    LoneSamples(task, model, setup(batch_train=4)).take(
        lonely, functools.partial(training_step, task, model), epoch=1, iteration=1
    )
    expected = SampleRandom.of(seed=1, epoch=1, indices=range(4)).uniform().tolist()
    assert task.drawn == [expected, expected]
    assert task.random is None


def test_evaluation_has_no_streams_and_a_resumed_run_has_the_same(tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole", Task=JITTERED)
    changes: dict[str, Any] = {"Task": JITTERED, "Setup__resume": "auto"}
    begun = run_toy(tmp_path / "halves", **changes, Setup__epochs=1)
    ended = run_toy(tmp_path / "halves", **changes)
    assert ended.folder == begun.folder
    assert ended.record.last == whole.record.last


def test_augmented_samples_are_shown_with_the_streams_of_the_first_epoch(tmp_path: Path) -> None:
    parts = assemble(draw_toy(tmp_path, Task=JITTERED), seed=7)
    gallery = RunGallery(parts, epochs=2)
    assert len(gallery.augmented(2)) == 2
    gallery.held_out([3])
    assert isinstance(parts.task, Jittered)
    first, second = (float(parts.training.streams([at], epoch=1).normal(1)) for at in (0, 1))
    assert parts.task.shown == [None, first, None, second, None]
    assert parts.task.random is None
