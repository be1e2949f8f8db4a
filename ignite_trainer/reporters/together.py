"""Several reporters as one: a reporter that fails stops neither the run nor the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ignite_trainer.api.reporter import (
    Evaluated,
    Event,
    Fault,
    Iteration,
    Measured,
    Reporter,
    RunEnd,
    RunStart,
)
from ignite_trainer.support.errors import RunFailed

logger = logging.getLogger(__name__)


class Together(Reporter):
    """Passes each event on to several reporters, in their order.

    A reporter that raises an exception is logged once with its traceback; from then on, only its `close` is
    called. A `RunFailed` stops the run.

    Args:
        reporters: the reporters.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = list(reporters)
        self._failed: set[int] = set()

    def on_start(self, run: RunStart) -> None:
        """Pass the start on."""
        self._tell("on_start", run)

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Pass the history on."""
        self._tell("on_resume", run, history)

    def on_iteration(self, step: Iteration) -> None:
        """Pass the progress on."""
        self._tell("on_iteration", step)

    def on_evaluation(self, result: Evaluated) -> None:
        """Pass the evaluation on."""
        self._tell("on_evaluation", result)

    def on_measurement(self, result: Measured) -> None:
        """Pass the measurement on."""
        self._tell("on_measurement", result)

    def on_fault(self, fault: Fault) -> None:
        """Pass the fault on."""
        self._tell("on_fault", fault)

    def on_end(self, end: RunEnd) -> None:
        """Pass the end on."""
        self._tell("on_end", end)

    def close(self) -> None:
        """Close every reporter, including failed ones."""
        self._tell("close")

    def _tell(self, method: str, *event: Any) -> None:
        for index, reporter in enumerate(self._reporters):
            has_failed = index in self._failed
            if has_failed and method != "close":
                continue
            try:
                getattr(reporter, method)(*event)
            except Exception as error:
                if isinstance(error, RunFailed) and method != "close":
                    raise  # its file cannot be written, nor could the run's own files
                self._failed.add(index)
                logger.log(
                    logging.DEBUG if has_failed else logging.WARNING,
                    "The reporter %s failed (%s: %s). The run goes on without it.",
                    *(type(reporter).__name__, type(error).__name__, error),
                    exc_info=True,
                )
