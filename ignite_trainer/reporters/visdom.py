"""The Visdom dashboard: finds or starts the server, and tells it; what is drawn is visdom_drawing.py's.

Whatever happens to the dashboard, the run neither fails nor waits: a thread of its own does all of it.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ignite_trainer.reporters.reporter import Evaluated, Event, Iteration, Reporter, RunEnd, RunStart
from ignite_trainer.reporters.terminal import show
from ignite_trainer.reporters.visdom_drawing import Drawing, Pictures, augmentation, learned
from ignite_trainer.reporters.visdom_http import DashboardAbsent, DashboardError, Transport, visdom_client
from ignite_trainer.reporters.visdom_server import Server

if TYPE_CHECKING:
    import visdom

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_LONGEST_QUEUE = 10_000
_PICTURE_SECONDS = 10.0  # between two pictures of the model, which the run waits for

_Told = Iteration | Evaluated | Pictures


class Visdom(Reporter):
    """Draws the run on a Visdom dashboard, in the environment that has the run's name.

    Its address is printed once a server answers there, and when the run ends.

    If the host is this machine and nothing answers on the port, the run starts a server of its own, on
    the loopback address, with its output in `visdom.log` in the run's folder, and stops it at the end; a
    server that was there is used and left alone. The environment is saved at every evaluation, so that the
    next server with the same folder shows it again. If anything fails, one warning says what and where to
    look, and the run goes on without a dashboard.

    Args:
        host: name or URL of the server's machine; None is this one.
        port: None is 8097.
        env_path: folder in which a server started by the run keeps the dashboards; None is `~/.visdom`.
        start_timeout: seconds such a server may take until it answers; at its very first start it fetches
            its scripts from the network.
    """

    section = "Visdom"

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        env_path: str | None = None,
        *,
        start_timeout: float = 120.0,
    ) -> None:
        self._host = host or "localhost"
        self._port = port
        self._environments = Path(env_path).expanduser().absolute() if env_path else None
        self._start_timeout = start_timeout
        self._events: queue.Queue[_Told | None] = queue.Queue(_LONGEST_QUEUE)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._thread: threading.Thread | None = None
        self._answered = threading.Event()
        self._ended = False
        self._hint = ""
        self._has_own_server = False
        self._history: list[_Told] = []
        self._run: RunStart | None = None
        self._pictured = -math.inf

    def on_start(self, run: RunStart) -> None:
        """Begin to look for the dashboard in the background, and say there where it is."""
        self._run = run
        transport = self._transport = Transport(self._host, self._port, timeout=_ANSWER_SECONDS)
        # Imports, not in the thread, or a loader process forked meanwhile would inherit a held lock.
        client = visdom_client(transport, environment=run.name)
        import rich.console  # noqa: F401, PLC0415 - for `show`

        self._thread = threading.Thread(
            target=self._work, args=(run, transport, client), name="visdom", daemon=True
        )
        self._thread.start()
        if pictures := augmentation(run.gallery):
            self._tell(pictures)

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Begin to look for the dashboard, where all is drawn anew."""
        self._history = [event for event in history if isinstance(event, Iteration | Evaluated)]
        self.on_start(run)

    def on_iteration(self, step: Iteration) -> None:
        """Draw the loss and the lines that go by iteration."""
        self._tell(step)

    def on_evaluation(self, result: Evaluated) -> None:
        """Draw what a split scored, and what the model has learned."""
        self._tell(result)
        assert self._run is not None, "on_start comes first"
        is_due = result.epoch == self._run.epochs or time.monotonic() - self._pictured > _PICTURE_SECONDS
        if result.split == "test" and is_due and not self._done.is_set():
            if pictures := learned(self._run.gallery, result.epoch):
                self._tell(pictures)
            self._pictured = time.monotonic()

    def on_end(self, end: RunEnd) -> None:  # noqa: ARG002
        """Say where the dashboard is, or will be again."""
        self._ended = True
        if self._answered.is_set() and not self._done.is_set():
            self._say_where()

    def close(self) -> None:
        """Give the dashboard a few seconds for the last values, then stop a server of the run's own."""
        if self._thread is None:
            return
        self._tell(None)
        self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"did not take the last values within {_FLUSH_SECONDS:g} s")
            self._thread.join(_FLUSH_SECONDS)

    def _address(self) -> str:
        """URL of the run's environment, in whose name visdom replaces slashes."""
        assert self._run is not None, "on_start comes first"
        assert self._transport is not None, "on_start comes first"
        return f"{self._transport.url}/env/{quote(self._run.name.replace('/', '_'), safe='')}"

    def _say_where(self) -> None:
        if self._ended and self._has_own_server:
            show(
                f"Dashboard: its server ends with the run; that of the next run shows it at {self._address()}"
            )
        else:
            show(f"Dashboard: {self._address()}")

    def _tell(self, event: _Told | None) -> None:
        if self._done.is_set():
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._give_up(f"is slower than the run: {_LONGEST_QUEUE} events are waiting")

    def _give_up(self, reason: str) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._done.set()
        assert self._transport is not None
        self._transport.abort()
        message = "The dashboard at %s %s.%s The run goes on without it."
        logger.warning(message, self._transport.url, reason, self._hint)

    # Everything below runs in the thread.

    def _work(self, run: RunStart, transport: Transport, client: visdom.Visdom) -> None:
        with ExitStack() as stack:
            try:
                self._connect(run, transport, client, stack)
                self._answered.set()
                self._say_where()
                drawing = Drawing(run, client)
                drawing.draw(self._history)
                while not self._done.is_set():
                    self._draw_events(drawing, client)
            except DashboardError as error:
                self._give_up(str(error))
            except Exception as error:  # a defect here must not end the run either
                logger.debug("The dashboard's thread failed.", exc_info=True)
                self._give_up(f"failed ({type(error).__name__}: {error})")

    def _connect(self, run: RunStart, transport: Transport, client: visdom.Visdom, stack: ExitStack) -> None:
        """Find a server, or start one that `stack` stops."""
        try:
            _greet(client)
            return
        except DashboardAbsent:
            if transport.host not in {"localhost", "127.0.0.1", "::1"}:
                raise
        log = run.folder / "visdom.log"
        self._hint = f" Its output is in {log}."
        server = Server(transport.port, environments=self._environments, log=log)
        self._has_own_server = True
        stack.callback(server.stop)
        deadline = time.monotonic() + self._start_timeout
        while not self._done.wait(0.2):
            # Before asking: it ends by itself where another run was faster to take the port.
            exit_code = server.exit_code()
            try:
                _greet(client)
                return
            except DashboardAbsent:
                if exit_code is not None:
                    raise DashboardError(
                        f"could not be started: its server ended with exit code {exit_code}"
                        " (the first start on a machine needs the network, to fetch visdom's scripts)"
                    ) from None
                if time.monotonic() > deadline:
                    raise DashboardError(
                        f"could not be started: its server did not answer within {self._start_timeout:g} s"
                    ) from None

    def _draw_events(self, drawing: Drawing, client: visdom.Visdom) -> None:
        """Wait for an event, then draw all that there are: one update for each line that grew."""
        events = [self._events.get()]
        while events[-1] is not None and not self._events.empty():
            events.append(self._events.get_nowait())
        drawing.draw([event for event in events if event is not None])
        if None in events or any(isinstance(event, Evaluated) for event in events):
            client.save(drawing.environments)
        if None in events:
            self._done.set()


def _greet(client: visdom.Visdom) -> None:
    """Make sure that a visdom server answers."""
    if client.win_exists("") is None:
        raise DashboardError("is no visdom server")
