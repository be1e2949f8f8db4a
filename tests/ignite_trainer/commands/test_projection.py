"""How long an experiment takes, from the speed of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import toy

from ignite_trainer.api.reporter import Split
from ignite_trainer.commands.stopwatch import project
from ignite_trainer.protocol.validation import validate

SIZES: dict[Split, int] = {"train": 1600, "test": 400}


def seconds(root: Path, training: float = 100.0, evaluation: float = 1000.0, **changes: Any) -> float:
    protocol = validate(toy(root, **{"Setup__epochs": 50, "Setup__batch_train": 64, **changes}))
    found = project(protocol, SIZES, {"training": training, "evaluation": evaluation})
    assert found.seconds == pytest.approx(found.runs * found.seconds_per_run)
    assert found.epochs == protocol.setup.epochs
    return found.seconds


def test_a_run_trains_and_evaluates_after_every_epoch_and_once_before(tmp_path: Path) -> None:
    assert seconds(tmp_path) == pytest.approx(50 * 1600 / 100 + (50 * 1600 + 51 * 400) / 1000)


def test_an_incomplete_last_batch_is_not_trained_on(tmp_path: Path) -> None:
    assert seconds(tmp_path, evaluation=1e9, Setup__batch_train=1000) == pytest.approx(50 * 1000 / 100)


def test_the_training_split_may_not_be_evaluated(tmp_path: Path) -> None:
    expected = 50 * 1600 / 100 + 51 * 400 / 1000
    assert seconds(tmp_path, Setup__skip_train_evaluation=True) == pytest.approx(expected)


def test_without_epochs_there_is_one_evaluation(tmp_path: Path) -> None:
    assert seconds(tmp_path, Setup__epochs=0) == pytest.approx(400 / 1000)


def test_a_sweep_has_as_many_runs_as_combinations(tmp_path: Path) -> None:
    sweep = {"Dataset.args.fold": [1, 2, 3], "Setup.seed": [1, 2]}
    assert seconds(tmp_path, Sweep=sweep) == pytest.approx(6 * seconds(tmp_path))
