"""Permission to run the commands of `pipe:` addresses."""

from __future__ import annotations

import pytest

from utils.shards.reading import PIPES_VARIABLE


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIPES_VARIABLE, "1")
