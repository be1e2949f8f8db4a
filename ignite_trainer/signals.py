"""Signals that ask a run to stop: the step under way is finished first, and its state saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# What batch schedulers send before they end a job, and what Ctrl-C sends.
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        signal: name of the first one; None: the run goes on.
    """

    def __init__(self) -> None:
        self.signal: str | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note SIGTERM, SIGINT and SIGUSR1 instead of ending; a second SIGINT raises KeyboardInterrupt.

    What was to happen on each signal before is put back at the end. Python hands signals to the main thread
    alone: in any other, nothing is changed.
    """
    request, process = StopRequest(), os.getpid()

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker, which the run itself ends
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if number == signal.SIGINT and request.signal:
            raise KeyboardInterrupt
        request.signal = request.signal or signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: it was set by what is not Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def leave_signals_to_parent(_: int) -> None:
    """Let a loader's worker outlive a signal to its whole group, which is for the run: the run ends it.

    It still ends when its parent says so: by its queue, by SIGTERM, or by being gone. A `worker_init_fn`.
    """
    for name in set(_NAMES) - {"SIGTERM"}:
        if hasattr(signal, name):
            # Not SIG_IGN, which programs that a data set starts would inherit.
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "sigwaitinfo"):  # a handler is not told who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
