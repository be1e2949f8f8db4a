"""Signals that stop a run, which first finishes the current step and saves its state."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from ignite_trainer.support.errors import RunStopped

# Sent by batch schedulers before they end a job, and by Ctrl-C.
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


@dataclass
class StopRequest:
    """A request to stop the run; `signal` is the name of the first signal, or None before it arrives."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record SIGTERM, SIGINT and SIGUSR1; a second SIGINT raises KeyboardInterrupt."""
    request = StopRequest()

    def note(name: str) -> None:
        if name == "SIGINT" and request.signal:
            raise KeyboardInterrupt
        request.signal = request.signal or name

    with _handled(note):
        yield request


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise RunStopped on SIGTERM, SIGINT and SIGUSR1, for code that can be interrupted anywhere.

    That is all code except steps. The preparation of data, for example, only renames complete files.
    """

    def stop(name: str) -> None:
        raise RunStopped(name)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[str], None]) -> Iterator[None]:
    """Call `handle` with the name of each signal, and restore the previous handlers at the end.

    Does nothing outside the main thread, because only the main thread receives signals in Python.
    """
    process = os.getpid()

    def called(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            handle(signal.Signals(number).name)
        elif number == signal.SIGTERM:  # in a forked worker, which the run ends
            os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, called) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set outside Python, so it cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def leave_signals_to_parent(_: int) -> None:
    """Make a loader's worker ignore signals to the whole process group, which are meant for the run.

    For use as a `worker_init_fn`. The worker still ends when its queue is closed, when its parent sends
    SIGTERM, or when its parent is gone.
    """
    for name in set(_NAMES) - {"SIGTERM"}:
        if hasattr(signal, name):
            # Programs that a data set starts would inherit SIG_IGN.
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "sigwaitinfo"):  # a handler does not know the sender
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_asks, daemon=True).start()


def _end_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
