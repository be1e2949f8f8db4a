"""Batch norm in train mode never sees a single value: the run is refused, or the value is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_research.lonely import Scoring, SoundAndPicture, batch_of
from toy_research.protocols import run_toy
from toy_research.records import events

from ignite_trainer.api.batch import rows_with_field
from ignite_trainer.api.task import EmbeddingTask, StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.setup_section import Setup
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.training.forward import GradientCache, JointResult
from ignite_trainer.training.lone_samples import DroppedField, LoneSamples
from tests.ignite_trainer.training.stepping import CPU, setup

SCENES: dict[str, Any] = {
    "Model": {"class": "toy_research.lonely.SoundAndPicture"},
    "Task": {"class": "toy_research.lonely.Scoring"},
    "Dataset": {"class": "toy_research.lonely.Scenes"},
    "Transforms": [],
}


def setup_of(**changes: Any) -> Setup:
    return setup(**{"batch_train": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Setup__batch_train": 1}, "Setup.batch_train is 1: the batch norm left.norm is in train mode and "),
        (
            {"Setup__batch_train": 3, "Setup__chunk": 2, "Task": {"class": "toy_research.learning.Pairing"}},
            "Setup.chunk is 2, which leaves chunks of 1 sample: the batch norm left.norm is in train mode",
        ),
    ],
)
def test_steps_of_one_sample_are_refused_if_a_batch_norm_trains(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProtocolError, match="a single value per channel, which has no variance") as error:
        run_toy(tmp_path, **changes)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "Toy").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"Model__args": {"norm": False}},
        {"Parameters": [{"match": r"(left|right)\..*", "mode": "eval"}, {"match": ".*"}]},
    ],
)
def test_batches_of_size_1_are_accepted_if_no_batch_norm_trains(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    end = run_toy(tmp_path, Setup__batch_train=1, Setup__epochs=1, **changes).end
    assert end.last_epoch == 1


def take(
    lone_samples: LoneSamples,
    model: nn.Module,
    given: Batch,
    *,
    task: EmbeddingTask | None = None,
    iteration: int = 1,
) -> Batch:
    """Run the forward pass of a step; return the batch that it used."""

    def forward(batch: Batch) -> JointResult:
        return JointResult((task or Scoring()).training_step(model, batch.sample), batch)

    return lone_samples.take(given, forward, epoch=2, iteration=iteration).batch


@pytest.mark.parametrize("compiled", [False, True])
def test_a_field_that_is_alone_in_its_batch_is_dropped_and_reported(compiled: bool) -> None:
    reported: list[DroppedField] = []
    model = SoundAndPicture().train()
    if compiled:
        model.sound.compile(backend="eager", dynamic=False)
    lone_samples = LoneSamples(Scoring(), model, setup_of(), record_dropped=reported.extend)
    three = batch_of(1, 6, 2)
    kept = take(lone_samples, model, three, iteration=5)
    assert kept.sample.sound is None
    assert torch.equal(kept.sample.picture, three.sample.picture)
    assert reported == [DroppedField("sound", 6, 2, 5)]
    two = batch_of(0, 1, 6)
    assert take(lone_samples, model, two) is two
    assert len(reported) == 1


def test_a_repeated_step_has_the_random_numbers_and_statistics_of_a_single_pass() -> None:
    class Moving(Scoring):
        def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            before(torch.ones(2, 1))
            drawn.append(float(torch.rand(())))
            return super().embed(model, batch)

    drawn: list[float] = []
    model, before = SoundAndPicture(), nn.BatchNorm1d(1)
    model.add_module("before", before)
    model.train()
    torch.manual_seed(0)
    take(LoneSamples(Moving(), model, setup_of()), model, batch_of(1, 6, 2), task=Moving())
    torch.manual_seed(0)
    assert drawn == [float(torch.rand(()))] * 2
    assert int(before.get_buffer("num_batches_tracked")) == 1


def test_nothing_is_dropped_if_the_batch_norm_is_frozen() -> None:
    model = SoundAndPicture().eval()
    kept = take(LoneSamples(Scoring(), model, setup_of()), model, batch_of(1, 6, 2))
    assert rows_with_field(kept.sample.sound, 3).tolist() == [1]


def test_a_field_that_is_alone_in_its_part_is_dropped() -> None:
    reported: list[DroppedField] = []
    model, settings = SoundAndPicture().train(), setup_of(batch_train=6, chunk=3)
    cache = GradientCache(Scoring(), model, settings, device=CPU)
    lone_samples = LoneSamples(Scoring(), model, settings, record_dropped=reported.extend)
    given = batch_of(0, 6, 1, 2, 12, 3)  # parts of three
    kept = lone_samples.take(given, cache.forward, epoch=1, iteration=1).batch
    assert rows_with_field(kept.sample.sound, 6).tolist() == [0, 1]
    assert reported == [DroppedField("sound", 12, 1, 1)]
    assert torch.equal(kept.sample.sound.values, batch_of(0, 6).sample.sound)


def test_other_errors_of_a_step_are_raised_unchanged() -> None:
    def forward(batch: Batch) -> JointResult:  # noqa: ARG001
        raise torch.OutOfMemoryError("out of memory")

    lone_samples = LoneSamples(Scoring(), SoundAndPicture().train(), setup_of())
    with pytest.raises(torch.OutOfMemoryError):
        lone_samples.take(batch_of(1, 6, 2), forward, epoch=1, iteration=1)


def without_picture(only: Batch) -> Batch:
    return only._replace(sample=only.sample._replace(picture=None))


def test_a_batch_with_nothing_left_ends_the_run() -> None:
    model = SoundAndPicture().train()
    with pytest.raises(RunFailed, match="Nothing is left to train on in the batch with sample 0"):
        take(LoneSamples(Scoring(), model, setup_of()), model, without_picture(batch_of(0)))


def test_a_task_that_needs_no_field_continues_without_any() -> None:
    class Easy(Scoring):
        def compare(self, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Any) -> StepOutput:  # noqa: ARG002
            del embeddings
            return StepOutput(torch.zeros(1, 3), batch.target, torch.tensor(0.0))

    reported: list[DroppedField] = []
    model = SoundAndPicture().train()
    lone_samples = LoneSamples(Easy(), model, setup_of(), record_dropped=reported.extend)
    kept = take(lone_samples, model, without_picture(batch_of(0)), task=Easy())
    assert kept.sample.sound is None and [left.position for left in reported] == [0]


def test_lone_sounds_are_counted_in_the_result_and_reported_once_with_any_workers(tmp_path: Path) -> None:
    results = {}
    for workers in (0, 2):
        root = tmp_path / str(workers)
        result = run_toy(root, Setup__workers_train=workers, Setup__epochs=3, Setup__batch_train=4, **SCENES)
        faults = [event for event in events(result.folder) if event["event"] == "fault"]
        assert len(faults) == 1
        assert faults[0]["what"] == 'Only one sample in the batch has "sound", but batch norm needs two'
        results[workers] = (result.record.faults, result.end.last, faults[0]["samples"])
    [(what, count)] = results[0][0].items()
    assert what == 'steps without "sound" (only one sample in the batch had it)' and 0 < count <= 12
    assert results[0] == results[2]
