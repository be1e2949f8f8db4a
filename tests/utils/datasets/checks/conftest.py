"""Fixture that runs `--check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.commands import cli


@pytest.fixture
def run_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs the command on a data set, and returns exit status and report."""

    def run(name: str, args: dict[str, Any], *flags: str, **setup: Any) -> tuple[int, str]:
        performance = {"line_label": "Accuracy", "class": "ignite.metrics.Accuracy", "is_checkpoint": True}
        protocol = {
            "Setup": {"name": "C", "saved_models_path": str(tmp_path / "none"), "epochs": 0, **setup},
            "Model": {"class": "torch.nn.Linear", "args": {"in_features": 1, "out_features": 1}},
            "Task": {"class": "utils.tasks.Classification"},
            "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 0.1}},
            "Dataset": {"class": f"utils.datasets.{name}", "args": args},
            "Metrics": {"Performance": {"lines": [performance]}},
        }
        (tmp_path / "protocol.json").write_text(json.dumps(protocol))
        (tmp_path / "defaults.json").write_text("{}")
        command = ["-c", str(tmp_path / "protocol.json"), "--check", *flags]
        return cli.main(command, defaults=tmp_path / "defaults.json"), capsys.readouterr().out

    return run
