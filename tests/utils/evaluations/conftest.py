"""Fixture that runs an evaluation on toy data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import run_toy

from ignite_trainer.runs.experiment import RunResult


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., RunResult]:
    """Return a function that evaluates the toy points with an entry "measured" in `Evaluations`."""

    def run(
        kind: str,
        args: dict[str, Any] | None = None,
        *,
        data: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        task_class: str = "Embedding",
    ) -> RunResult:
        return run_toy(
            tmp_path,
            Setup__epochs=0,
            Dataset={"class": "toy_research.embedding.Points", "args": data or {}},
            Task={"class": f"toy_research.embedding.{task_class}", "args": task or {}},
            Transforms=[],
            Metrics={},
            Evaluations={"measured": {"class": f"utils.evaluations.{kind}", "args": args or {}}},
        )

    return run
