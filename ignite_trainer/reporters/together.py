"""Several reporters as one, so that one which fails neither stops the run nor the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from ignite_trainer.errors import RunFailed
from ignite_trainer.reporters.reporter import (
    Evaluated,
    Event,
    Fault,
    Iteration,
    Measured,
    Reporter,
    RunEnd,
    RunStart,
)

logger = logging.getLogger(__name__)


class Together(Reporter):
    """Tells every reporter the same, in order.

    A reporter that raises (a full disk, a closed pipe, a defect) is named once in the log, with its
    traceback, and told nothing more but `close`.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = list(reporters)
        self._failed: set[int] = set()

    def on_start(self, run: RunStart) -> None:
        """Pass the start on."""
        self._tell(lambda reporter: reporter.on_start(run))

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Pass on what was before."""
        self._tell(lambda reporter: reporter.on_resume(run, history))

    def on_iteration(self, step: Iteration) -> None:
        """Pass the progress on."""
        self._tell(lambda reporter: reporter.on_iteration(step))

    def on_evaluation(self, result: Evaluated) -> None:
        """Pass the evaluation on."""
        self._tell(lambda reporter: reporter.on_evaluation(result))

    def on_measurement(self, result: Measured) -> None:
        """Pass the measurement on."""
        self._tell(lambda reporter: reporter.on_measurement(result))

    def on_fault(self, fault: Fault) -> None:
        """Pass the fault on."""
        self._tell(lambda reporter: reporter.on_fault(fault))

    def on_end(self, end: RunEnd) -> None:
        """Pass the end on."""
        self._tell(lambda reporter: reporter.on_end(end))

    def close(self) -> None:
        """Close every reporter, failed ones too."""
        self._tell(lambda reporter: reporter.close(), failed_too=True)

    def _tell(self, call: Callable[[Reporter], None], *, failed_too: bool = False) -> None:
        for index, reporter in enumerate(self._reporters):
            if index in self._failed and not failed_too:
                continue
            try:
                call(reporter)
            except RunFailed:  # its file cannot be written: a full disk takes the rest of the run as well
                if not failed_too:
                    raise
            except Exception as error:
                level = logging.DEBUG if index in self._failed else logging.WARNING
                self._failed.add(index)
                logger.log(
                    level,
                    "The reporter %s failed (%s: %s). The run goes on without it.",
                    type(reporter).__name__,
                    type(error).__name__,
                    error,
                    exc_info=True,
                )
