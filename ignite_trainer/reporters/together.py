"""Several reporters as one: a reporter that fails stops neither the run nor the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

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
    """Tells several reporters of each event, in their order.

    A reporter that raises (because of a closed pipe or a defect, say) is named once in the log with its
    traceback; from then on only its `close` is called. A `RunFailed` stops the run.

    Args:
        reporters: those to tell.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = list(reporters)
        self._failed: set[int] = set()

    def on_start(self, run: RunStart) -> None:
        """Pass the start on."""
        self._tell(lambda reporter: reporter.on_start(run))

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Pass the history on."""
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
            except RunFailed:  # its file cannot be written, so the run's own files could not be either
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
