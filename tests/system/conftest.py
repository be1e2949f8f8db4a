"""Fixture that runs the command with the shipped defaults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import Done

from ignite_trainer.commands import cli

ROOT = Path(__file__).parents[2]
DEFAULTS = ROOT / "protocols/defaults.json"
SHIPPED = sorted(set((ROOT / "protocols").glob("*.json")) - {DEFAULTS, ROOT / "protocols/schema.json"})
"""Protocol files."""
QUIET = ["--Reporters", '[{"class": "ignite_trainer.reporters.JsonLines"}]']

Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a shipped protocol by name, or a given one; results are in `results`."""

    def run(protocol: str | dict[str, Any], *words: str | Path) -> Done:
        path = ROOT / f"protocols/{protocol}.json"
        if isinstance(protocol, dict):
            path = tmp_path / "protocol.json"
            path.write_text(json.dumps(protocol))
        argv = ["-c", path, "-M", tmp_path / "results", *words]
        status = cli.main([*map(str, argv)], defaults=DEFAULTS)
        return Done(status, *capsys.readouterr())

    return run
