"""Fixture of commands that run nothing."""

from __future__ import annotations

import pytest

from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs import experiment


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Protocol]:
    """Record the protocols to be run instead of running them; return the list."""
    protocols: list[Protocol] = []
    monkeypatch.setattr(experiment, "run", lambda blueprint, **_: protocols.append(blueprint.protocol))
    return protocols
