"""Combines several reporters into one; a failing reporter stops neither the run nor the other reporters."""

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
    """Forwards each event to several reporters, in the given order.

    If a reporter raises an exception, it is logged once with its traceback; from then on, only the reporter's
    `close` is called. A `RunFailed` is re-raised, which stops the run.

    Args:
        reporters: reporters, in the order in which they receive each event.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = list(reporters)
        self._failed: set[int] = set()

    def on_start(self, run: RunStart) -> None:
        """Forward the start."""
        self._tell("on_start", run)

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Forward the history."""
        self._tell("on_resume", run, history)

    def on_iteration(self, step: Iteration) -> None:
        """Forward the training progress."""
        self._tell("on_iteration", step)

    def on_evaluation(self, result: Evaluated) -> None:
        """Forward a split's metrics."""
        self._tell("on_evaluation", result)

    def on_measurement(self, result: Measured) -> None:
        """Forward an evaluation's table."""
        self._tell("on_measurement", result)

    def on_fault(self, fault: Fault) -> None:
        """Forward the fault."""
        self._tell("on_fault", fault)

    def on_end(self, end: RunEnd) -> None:
        """Forward the end."""
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
                    raise  # the reporter's file cannot be written, so the run's own files could not either
                self._failed.add(index)
                logger.log(
                    logging.DEBUG if has_failed else logging.WARNING,
                    "The reporter %s failed (%s: %s). The run continues without it.",
                    *(type(reporter).__name__, type(error).__name__, error),
                    exc_info=True,
                )
