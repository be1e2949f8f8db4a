"""The command on toy protocols."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_research.protocols import Command

from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs import experiment


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Protocol]:
    """The protocols that were run; nothing is built."""
    protocols: list[Protocol] = []
    monkeypatch.setattr(experiment, "run", lambda blueprint, **_: protocols.append(blueprint.protocol))
    return protocols
