"""Batch norm in train mode never sees one value: that is refused, or left out where it comes by chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.lonely import Scene, Scenes, Scoring, SoundAndPicture
from toy_research.protocols import run_toy

from ignite_trainer.batch import PaddedBatch, PartialBatch, collate, rows_of, without_row
from ignite_trainer.company import Company, LeftOut, lacks_fields
from ignite_trainer.data import Batch
from ignite_trainer.errors import ProtocolError, RunFailed
from ignite_trainer.setup_section import Setup

CPU = torch.device("cpu")
SCENES: dict[str, Any] = {
    "Model": {"class": "toy_research.lonely.SoundAndPicture"},
    "Task": {"class": "toy_research.lonely.Scoring"},
    "Dataset": {"class": "toy_research.lonely.Scenes"},
    "Transforms": [],
}


def setup_of(**changes: Any) -> Setup:
    return Setup(name="Toy", batch_train=4, epochs=1, saved_models_path="results").model_copy(update=changes)


def batch(*indices: int) -> Batch:
    sample = collate([Scenes()[index] for index in indices])
    fields = [
        field._replace(values=field.values.values) if isinstance(field, PartialBatch) else field
        for field in sample
    ]
    plain = [field.values if isinstance(field, PaddedBatch) else field for field in fields]
    return Batch(torch.tensor(indices), Scene(*plain))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"Setup__batch_train": 1},
            "Setup.batch_train is 1: the batch norm left.norm is in train mode, and ",
        ),
        (
            {"Setup__batch_train": 3, "Setup__chunk": 2, "Task": {"class": "toy_research.pairing.Pairing"}},
            "Setup.chunk is 2, which leaves parts of 1 sample: the batch norm left.norm is in train mode",
        ),
    ],
)
def test_steps_of_one_sample_are_refused_where_a_batch_norm_trains(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProtocolError, match="one value for each channel, which has no variance") as error:
        run_toy(tmp_path, **changes)
    assert str(error.value).startswith(said)
    assert not (tmp_path / "Toy").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"Model__args": {"norm": False}},
        {"Parameters": [{"match": r"(left|right)\..*", "mode": "eval"}, {"match": ".*"}]},
    ],
)
def test_batches_of_one_are_trained_where_no_batch_norm_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    end = run_toy(tmp_path, Setup__batch_train=1, Setup__epochs=1, **changes).end
    assert end.last_epoch == 1


def test_looking_for_batch_norms_leaves_model_and_random_numbers_as_they_were() -> None:
    torch.manual_seed(0)
    model = SoundAndPicture().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    Company(Scoring(), model, setup_of(), device=CPU).keep(batch(0, 1, 2, 3), epoch=1, iteration=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_field_that_is_alone_in_a_batch_norm_is_left_out_and_told() -> None:
    told: list[tuple[list[LeftOut], int, int]] = []
    model = SoundAndPicture().train()
    company = Company(
        Scoring(), model, setup_of(), device=CPU, count=lambda left, *at: told.append((left, *at))
    )
    kept = company.keep(batch(1, 6, 2), epoch=2, iteration=5)
    assert kept.sample.sound is None
    assert torch.equal(kept.sample.picture, batch(1, 6, 2).sample.picture)
    assert told == [([LeftOut("sound", 6)], 2, 5)]
    two = batch(0, 1, 6)
    assert company.keep(two, epoch=2, iteration=6) is two or rows_of(two.sample.sound, 3).tolist() == [0, 2]
    assert len(told) == 1


def test_nothing_is_left_out_of_a_model_whose_batch_norm_is_frozen() -> None:
    model = SoundAndPicture().eval()
    kept = Company(Scoring(), model, setup_of(), device=CPU).keep(batch(1, 6, 2), epoch=1, iteration=1)
    assert rows_of(kept.sample.sound, 3).tolist() == [1]


def test_what_is_alone_in_its_part_of_a_batch_is_left_out_too() -> None:
    told: list[LeftOut] = []
    model, setup = SoundAndPicture().train(), setup_of(batch_train=6, chunk=3)
    company = Company(Scoring(), model, setup, device=CPU, count=lambda left, *_: told.extend(left))
    kept = company.keep(batch(0, 6, 1, 2, 12, 3), epoch=1, iteration=1)  # parts of three
    assert rows_of(kept.sample.sound, 6).tolist() == [0, 1]
    assert told == [LeftOut("sound", 12)]
    assert torch.equal(kept.sample.sound.values, batch(0, 6).sample.sound)


def test_the_only_sample_of_a_batch_that_is_left_with_nothing_ends_the_run() -> None:
    only = batch(0)
    only = only._replace(sample=only.sample._replace(picture=None))
    company = Company(Scoring(), SoundAndPicture().train(), setup_of(), device=CPU)
    with pytest.raises(RunFailed, match="Sample 0 of the training split is the only one of its batch"):
        company.keep(only, epoch=1, iteration=1)


def test_a_batch_without_one_row_keeps_the_others() -> None:
    full = torch.arange(6.0).reshape(3, 2)
    field = without_row(full, 1, 3)
    assert (field.rows.tolist(), field.values.tolist()) == ([0, 2], [[0.0, 1.0], [4.0, 5.0]])
    padded = PartialBatch(torch.tensor([0, 4]), PaddedBatch(full[:2], torch.tensor([1, 2])))
    field = without_row(padded, 0, 5)
    assert (field.rows.tolist(), field.values.lengths.tolist()) == ([4], [2])
    assert without_row(field, 4, 5) is None


def test_a_data_set_lacks_fields_if_only_some_samples_have_them() -> None:
    assert lacks_fields(Scenes())
    assert not lacks_fields(Scenes(every=1))
    assert not lacks_fields(Scenes(every=10**6, samples=1))


def test_lone_sounds_are_counted_in_the_result_and_told_once_whatever_the_workers(tmp_path: Path) -> None:
    results = {}
    for workers in (0, 2):
        root = tmp_path / str(workers)
        result = run_toy(root, Setup__workers_train=workers, Setup__epochs=3, Setup__batch_train=4, **SCENES)
        log = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        faults = [event for event in log if event["event"] == "fault"]
        assert len(faults) == 1
        assert faults[0]["what"] == '"sound" of one sample is alone in its batch, and batch norm needs two'
        results[workers] = (result.record.faults, result.end.last, faults[0]["samples"])
    [(what, count)] = results[0][0].items()
    assert what == '"sound" left out of a step, alone in its batch' and 0 < count <= 12
    assert results[0] == results[2]
