"""Combines several reporters into one; a failing reporter stops neither the run nor the other reporters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from ignite_trainer.api.reporter import Reporter
from ignite_trainer.support.errors import RunFailed

logger = logging.getLogger(__name__)


def _forward(method: str) -> Callable[..., None]:
    """Make the method that calls `method` of every reporter, in order."""

    def call_all(self: Together, *event: Any) -> None:
        for reporter in self._reporters:
            has_failed = reporter in self._failed
            if has_failed and method != "close":
                continue
            try:
                getattr(reporter, method)(*event)
            except Exception as error:
                if isinstance(error, RunFailed) and method != "close":
                    raise  # the reporter's file cannot be written, so the run's own files could not either
                self._failed.append(reporter)
                logger.log(
                    logging.DEBUG if has_failed else logging.WARNING,
                    "The reporter %s failed (%s: %s). The run continues without it.",
                    *(type(reporter).__name__, type(error).__name__, error),
                    exc_info=True,
                )

    return call_all


class Together(Reporter):
    """Forwards each event to several reporters, in the given order.

    If a reporter raises an exception, it is logged once with its traceback; from then on, only the reporter's
    `close` is called. A `RunFailed` is re-raised, which stops the run.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = list(reporters)
        self._failed: list[Reporter] = []

    on_start = _forward("on_start")
    on_resume = _forward("on_resume")
    on_iteration = _forward("on_iteration")
    on_evaluation = _forward("on_evaluation")
    on_measurement = _forward("on_measurement")
    on_fault = _forward("on_fault")
    on_end = _forward("on_end")
    close = _forward("close")
