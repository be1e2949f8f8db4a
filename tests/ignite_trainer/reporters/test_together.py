"""A failing reporter is logged once and skipped; the run and the other reporters continue."""

from __future__ import annotations

import logging

import pytest

from ignite_trainer.api.reporter import Evaluated, RunStart
from ignite_trainer.reporters import Reporter, Together
from tests.ignite_trainer.reporters.events import evaluated


class Recorder(Reporter):
    def __init__(self, failing: frozenset[str] = frozenset()) -> None:
        self.failing = failing
        self.calls: list[str] = []

    def on_start(self, run: RunStart) -> None:  # noqa: ARG002
        self._called("on_start")

    def on_evaluation(self, result: Evaluated) -> None:  # noqa: ARG002
        self._called("on_evaluation")

    def close(self) -> None:
        self._called("close")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise OSError("No space left on device")


def test_a_failing_reporter_is_logged_once_and_skipped(
    run: RunStart, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recorder(frozenset({"on_evaluation", "close"})), Recorder()
    together = Together([broken, sound])
    together.on_start(run)
    for _ in range(3):
        together.on_evaluation(evaluated())
    together.close()
    assert broken.calls == ["on_start", "on_evaluation", "close"]
    assert sound.calls == ["on_start", *["on_evaluation"] * 3, "close"]
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage() == (
        "The reporter Recorder failed (OSError: No space left on device). The run continues without it."
    )


def test_an_interruption_is_not_a_failure_of_a_reporter(run: RunStart) -> None:
    class Interrupted(Reporter):
        def on_start(self, run: RunStart) -> None:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Together([Interrupted()]).on_start(run)
