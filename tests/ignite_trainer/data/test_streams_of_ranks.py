"""Streamed data sets in two processes: their predictions, and how many processes may resume a run."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import run_toy
from toy_research.ranks import STOPPED, STREAMED, WHOLE, on_ranks, run_beginnings
from toy_research.signals import Tones

from ignite_trainer.support.errors import ProtocolError

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs made by two processes."""
    folder = tmp_path_factory.mktemp("two")
    on_ranks(2, folder, run_beginnings, folder)
    return folder


def continue_run(folder: Path, **changes: Any) -> Path:
    options = {"Dataset": STREAMED, "Task": STOPPED, "Setup__batch_train": 4, "Setup__batch_of": "all"}
    return run_toy(folder, **{**options, "Setup__resume": "auto", **changes}).folder


def only_run(folder: Path) -> Path:
    (found,) = (folder / "Toy").iterdir()
    return found


def predicted(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.reader(file))


def content(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_predictions_are_in_the_order_of_the_data_set(by_two: Path, tmp_path: Path) -> None:
    held_out = Tones(fold=1, train=False)
    header, *rows = predicted(only_run(by_two / "whole"))
    assert [row[header.index("target")] for row in rows] == [
        ("low", "middle", "high")[held_out[index].target] for index in range(len(held_out))
    ]
    assert [int(row[0]) for row in rows] == list(range(len(held_out)))
    # A single process has different lanes; the network is not trained.
    scores = []
    for name, dataset in (("streamed", STREAMED), ("listed", {"class": "toy_research.signals.Tones"})):
        options = {"Dataset": {**dataset, "args": {"fold": 1}}, "Setup__epochs": 0, "Setup__batch_test": 4}
        scores.append(predicted(run_toy(tmp_path / name, **options).folder))
    assert scores[0] == scores[1]


def test_another_number_of_processes_is_refused_within_an_epoch(by_two: Path, tmp_path: Path) -> None:
    shutil.copytree(by_two / "stopped", tmp_path / "stopped")
    states = only_run(tmp_path / "stopped") / "checkpoints"
    before = content(tmp_path)
    message = (
        f"The state {states}/last_epoch-2_step-7.pt was saved by 2 processes after 2 of the 5 batches of "
        "epoch 2, but this run has 1. With a streamed data set, the rest of this epoch would repeat some "
        "samples and skip others. Resume with 2 processes"
    )
    with pytest.raises(ProtocolError) as caught:
        continue_run(tmp_path / "stopped")
    assert str(caught.value) == message + (
        ", or remove last_epoch-2_step-7.pt to resume from last_epoch-1.pt, the end of an epoch, with any "
        "number."
    )
    assert content(tmp_path) == before
    (states / "last_epoch-1.pt").unlink()
    with pytest.raises(ProtocolError) as caught:
        continue_run(tmp_path / "stopped")
    assert str(caught.value) == message + "; from the end of the epoch, any number can resume."


def test_one_process_resumes_from_the_end_of_an_epoch(by_two: Path, tmp_path: Path) -> None:
    """Resume as the error message advises."""
    shutil.copytree(by_two / "stopped", tmp_path / "stopped")
    for state in only_run(tmp_path / "stopped").glob("checkpoints/last_*_step-*.pt"):
        state.unlink()
    folder = continue_run(tmp_path / "stopped")
    assert folder == only_run(tmp_path / "stopped")
    assert (folder / "result.json").exists()


def test_one_process_resumes_a_finished_run_of_two(by_two: Path, tmp_path: Path) -> None:
    shutil.copytree(by_two / "whole", tmp_path / "whole")
    assert continue_run(tmp_path / "whole", Task=WHOLE, Setup__epochs=3) == only_run(tmp_path / "whole")


def test_separate_batches_of_each_process_are_named_as_the_cause(by_two: Path, tmp_path: Path) -> None:
    shutil.copytree(by_two / "each", tmp_path / "each")
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path / "each", Task=WHOLE, Setup__resume="auto")
    assert (
        "batches of an epoch: 1 then, 2 now. It was saved by 2 processes, each with its own batches, but "
        'this run has 1. Start 2 again; with Setup.batch_of "all", any number can resume.'
    ) in str(caught.value)
