"""Signals that ask a run to stop: a step under way is finished first, and its state saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ignite_trainer.support.errors import RunStopped

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
    """Note SIGTERM, SIGINT and SIGUSR1 instead of ending; a second SIGINT raises KeyboardInterrupt."""
    request = StopRequest()

    def note(name: str) -> None:
        if name == "SIGINT" and request.signal:
            raise KeyboardInterrupt
        request.signal = request.signal or name

    with _handled(note):
        yield request


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise RunStopped on SIGTERM, SIGINT and SIGUSR1, for what can be left at any place.

    That is all but steps: the preparation of data, say, which gives files their names when they are whole.
    """

    def stop(name: str) -> None:
        raise RunStopped(name)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[str], None]) -> Iterator[None]:
    """Call `handle` with the name of a signal that comes.

    What was to happen on each signal before is put back at the end. Python hands signals to the main thread
    alone: in any other, nothing is changed.
    """
    process = os.getpid()

    def called(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            handle(signal.Signals(number).name)
        elif number == signal.SIGTERM:  # in a forked worker, which the run itself ends
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
