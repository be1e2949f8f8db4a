"""Unreadable samples in a run: named, or skipped and counted up to a limit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from toy_research.failing import FaultyTones
from toy_research.protocols import run_toy

from ignite_trainer.data.samples import Unreadable, UnreadableSamples, as_unreadable, first_readable
from ignite_trainer.support.errors import ProtocolError, RunFailed

ONE_BY_ONE, IN_BATCHES = "toy_research.failing.FaultyTones", "toy_research.failing.TonesInBatches"
ON_BATCHES = {"Transforms": [{"class": "toy_research.augment.Fit", "args": {"length": 16, "train": False}}]}
WAYS: list[tuple[str, dict[str, Any]]] = [
    (ONE_BY_ONE, {}),
    (ONE_BY_ONE, {"Setup__workers_train": 2, "Setup__workers_test": 1}),
    (IN_BATCHES, ON_BATCHES),
]


def dataset(kind: str, *gone: int) -> dict[str, Any]:
    return {"class": kind, "args": {"fold": 1, "gone": list(gone)}}


@pytest.mark.parametrize(("kind", "more"), WAYS)
def test_an_unreadable_sample_ends_the_run_and_is_named(
    tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    with pytest.raises(RunFailed) as caught:
        run_toy(tmp_path, Dataset=dataset(kind, 7), Setup__skip_train_evaluation=True, **more)
    assert str(caught.value) == (
        "tone 7.wav of the training split cannot be read: 7.wav is cut off. Repair or remove it, or set "
        'Faults.unreadable to "skip". The results of finished epochs are kept.'
    )
    (log,) = tmp_path.rglob("metrics.jsonl")
    assert json.loads(log.read_text().splitlines()[0])["event"] == "evaluation"


@pytest.mark.parametrize(("kind", "more"), WAYS)
def test_unreadable_samples_are_skipped_and_counted(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    result = run_toy(
        tmp_path,
        Dataset=dataset(kind, 1, 6),  # one sample from each split
        Faults={"unreadable": "skip", "unreadable_at_most": 0.1},
        **more,
    )
    assert result.record.faults == {"samples skipped": 2}
    rows = (result.folder / "predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == 9
    assert not any(row.startswith("6.wav") for row in rows)


def test_too_many_unreadable_samples_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        run_toy(
            tmp_path,
            Dataset=dataset(ONE_BY_ONE, 0, 6),
            Faults={"unreadable": "skip", "unreadable_at_most": 0.1},
        )
    assert (
        "2 of 10 samples are unreadable, more than Faults.unreadable_at_most allows (10 % of the split): "
    ) in str(caught.value)


@pytest.mark.parametrize(("kind", "more"), WAYS)
def test_an_unreadable_evaluation_batch_is_skipped(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    result = run_toy(
        tmp_path,
        Setup__batch_test=9,  # the last batch has only tone 27
        Dataset=dataset(kind, 27),
        Faults={"unreadable": "skip", "unreadable_at_most": 0.2},
        **more,
    )
    assert result.record.faults == {"samples skipped": 1}
    with (result.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    right = sum(row["target"] == row["prediction"] for row in rows) / 9
    assert result.record.last["Val. Acc."] == pytest.approx(right)


def test_an_unreadable_training_batch_ends_the_run() -> None:
    samples = UnreadableSamples(FaultyTones(gone=[3]), split="training", max_share=0.5)
    failed = [Unreadable(0, "cut off")]
    samples.add(failed, none_left=False)
    with pytest.raises(RunFailed, match=r"No sample in its batch can be read.*remove tone 1\.wav from"):
        samples.add(failed, none_left=True)


def test_an_error_that_may_be_a_defect_is_reported_with_its_location() -> None:
    def stretch() -> None:
        raise ValueError("could not broadcast.")

    def read(depth: int) -> int:
        return read(depth + 1) + 1

    with pytest.raises(ValueError, match="broadcast") as caught:
        stretch()
    assert as_unreadable(caught.value, 3) == (3, "could not broadcast (ValueError in stretch)")
    with pytest.raises(RecursionError) as endless:
        read(0)
    with pytest.raises(RecursionError):
        as_unreadable(endless.value, 3)


def test_samples_throughout_an_unreadable_data_set_are_tried() -> None:
    asked: list[int] = []

    class Gone(list[int]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            raise OSError(f"{index}.wav is gone")

    with pytest.raises(ProtocolError, match=r"none of the 99 samples checked could be read: 0\.wav is gone"):
        first_readable(Gone())
    assert asked == [*range(50), *range(20_000, 1_000_000, 20_000)]


def test_a_field_that_only_the_last_samples_have_is_found() -> None:
    assert first_readable([(1, None)] * 400 + [(2, "image")] * 50, lambda sample: sample[1] is not None)
    assert first_readable([(1, None), (2, "image")] * 100, lambda sample: sample[1] is not None)
    assert first_readable([(1, None)] * 3 + [(2, "image")], lambda sample: sample[1] is not None) == (
        2,
        "image",
    )


def test_a_defect_in_the_data_set_is_not_an_unreadable_sample(tmp_path: Path) -> None:
    faulty = {"class": ONE_BY_ONE, "args": {"fold": 1, "spread": None}}
    with pytest.raises(ProtocolError, match=r"^Dataset: TypeError: .*signals\.py, line \d+\)$"):
        run_toy(tmp_path, Dataset=faulty, Faults={"unreadable": "skip", "unreadable_at_most": 0.9})
