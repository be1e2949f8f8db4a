"""`--check` of the quickstart: weights must exist, be intact and belong to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.system.conftest import Command

SMALL = ["--Dataset.args.seconds", "0.2", "--Dataset.args.clips_per_class_and_fold", "1"]

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(command: Command, tmp_path: Path) -> Check:
    def check(*argv: str | Path) -> tuple[int, str]:
        done = command("quickstart", "--check", *SMALL, *argv)
        assert not (tmp_path / "results").exists()
        return done.status, done.out

    return check


def test_the_quickstart_passes(check: Check) -> None:
    status, report = check()
    assert (status, "0 errors, 0 warnings" in report) == (0, True)


def test_missing_weights_are_found(check: Check, tmp_path: Path) -> None:
    missing = tmp_path / "none.pt"
    status, report = check("--Model.args.pretrained", missing)
    assert (status, f"error: Model: {missing}: no such file or folder of runs." in report) == (1, True)


def test_truncated_weights_are_found(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save(nn.Linear(100, 100).state_dict(), path)
    path.write_bytes(path.read_bytes()[:20000])
    status, report = check("--Model.args.pretrained", path)
    assert (status, f"error: Model: {path} is cut short" in " ".join(report.split())) == (1, True)


def test_weights_of_another_model_are_reported_with_the_entries_that_do_not_match(
    check: Check, tmp_path: Path
) -> None:
    path = tmp_path / "other.pt"
    torch.save({"logit_scale": torch.zeros(()), "visual.conv1.weight": torch.zeros(2, 2)}, path)
    status, report = check("--Model.args.pretrained", path)
    assert status == 1
    assert "error: Model: Weights do not fit AudioCLIP." in report
    assert "\n      1 misshapen: visual.conv1.weight [2, 2] for [" in report
