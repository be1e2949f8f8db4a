"""The Visdom dashboard: one queue and one thread, so that no dashboard delays or stops a run."""

from __future__ import annotations

import logging
import math
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ignite_trainer.api.reporter import Evaluated, Event, Iteration, Reporter, RunStart
from ignite_trainer.reporters.visdom_drawing import Drawing, Panel, augmented, learned
from ignite_trainer.reporters.visdom_server import start_server
from ignite_trainer.support.terminal import show

if TYPE_CHECKING:
    import visdom

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_START_SECONDS = 120.0
_LONGEST_QUEUE = 10_000
_PANEL_SECONDS = 10.0  # between two views of the model, which the run waits for


class Visdom(Reporter):
    """Draws the run on a Visdom dashboard, in an environment named after the run.

    Prints the dashboard's address once a server answers there. If the host is this machine and nothing
    listens on the port, the run starts a server on the loopback address; it writes to `visdom.log` in the
    run's folder and stops with the run. A server that was already there keeps running. The environment is
    saved after every evaluation, so the next server with the same `env_path` shows it again.

    If the dashboard fails, one warning says why, and the run goes on without it.

    Args:
        host: name or URL of the server's machine; None is this one.
        port: None is 8097.
        env_path: folder in which a server started by the run keeps its environments; None is `~/.visdom`.
    """

    section = "Visdom"

    def __init__(self, host: str | None = None, port: int | None = None, env_path: str | None = None) -> None:
        address = urlsplit(host if host and "//" in host else f"http://{host or 'localhost'}")
        self._host = address.hostname or "localhost"
        self._port = port or address.port or 8097
        machine = address.netloc.rpartition("@")[2].removesuffix(f":{address.port}")
        self._machine = f"{address.scheme}://{machine}"
        self._environments = Path(env_path or "~/.visdom").expanduser().absolute()
        self._queue: queue.Queue[Sequence[Event | Panel] | None] = queue.Queue(_LONGEST_QUEUE)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._run: RunStart | None = None
        self._last_panel = -math.inf

    def on_start(self, run: RunStart) -> None:
        """Look for the dashboard in the background."""
        self._run = run
        # The thread imports nothing: a loader process forked meanwhile would inherit a held lock.
        client = _make_client(self._machine, self._port, environment=run.name)
        import rich.console  # noqa: F401, PLC0415

        self._thread = threading.Thread(target=self._work, args=(run, client), name="visdom", daemon=True)
        self._thread.start()
        self._put(augmented(run.gallery))

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Look for the dashboard in the background, and draw the run again from its beginning."""
        self.on_start(run)
        self._put(history)

    def on_iteration(self, step: Iteration) -> None:
        """Draw the loss, the learning rates, the speed and the metrics by iteration."""
        self._put([step])

    def on_evaluation(self, result: Evaluated) -> None:
        """Draw the metrics of a split and, after the held-out one, what the model has learned."""
        if result.predictions is not None:
            import sklearn.metrics  # noqa: F401, PLC0415 - for the confusion matrix
        self._put([result])
        assert self._run is not None, "on_start comes first"
        is_due = result.epoch == self._run.epochs or time.monotonic() - self._last_panel > _PANEL_SECONDS
        if result.split == "test" and is_due and not self._done.is_set():
            self._put(learned(self._run.gallery, result.epoch))
            self._last_panel = time.monotonic()

    def close(self) -> None:
        """Give the dashboard a few seconds for the last values, then stop a server that the run started."""
        if self._thread is None:
            return
        self._put(None)
        if not self._done.is_set():
            self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"did not take the last values within {_FLUSH_SECONDS:g} s")
            if self._server is not None:
                self._server.kill()  # which ends the request that the thread waits for
                self._thread.join(_ANSWER_SECONDS)

    def _put(self, events: Sequence[Event | Panel] | None) -> None:
        try:
            if not self._done.is_set():
                self._queue.put_nowait(events)
        except queue.Full:
            self._give_up(f"is slower than the run: {_LONGEST_QUEUE} events are waiting")

    def _give_up(self, reason: str) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._done.set()
        log = f" Its output is in {self._run.folder / 'visdom.log'}." if self._server and self._run else ""
        message = "The dashboard at %s:%s %s.%s The run goes on without it."
        logger.warning(message, self._machine, self._port, reason, log)

    # Everything below runs in the thread.

    def _work(self, run: RunStart, client: visdom.Visdom) -> None:
        try:
            self._connect(run, client)
            # visdom replaces slashes in the names of environments.
            page = f"{self._machine}:{self._port}/env/{quote(run.name.replace('/', '_'), safe='')}"
            show(f"Dashboard: {page}" + (" (its server stops with the run)" if self._server else ""))
            drawing = Drawing(run, client)
            while not self._done.is_set():
                self._draw_waiting(drawing, client)
        except Exception as error:  # a defect here must not stop the run either
            logger.debug("The dashboard's thread failed.", exc_info=True)
            self._give_up(str(error) if isinstance(error, _DashboardError) else f"failed ({error!r})")
        finally:
            if self._server is not None:
                self._server.kill()
                self._server.communicate()

    def _connect(self, run: RunStart, client: visdom.Visdom) -> None:
        """Find a server, or start one."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self._server is not None:
                exit_code = self._server.poll()
                if exit_code is not None or self._done.is_set() or time.monotonic() > deadline:
                    ended = "does not answer" if exit_code is None else f"ended with exit code {exit_code}"
                    raise _DashboardError(
                        f"could not be started: its server {ended} (the first start on a machine needs the"
                        " network, to fetch visdom's scripts)"
                    )
            elif self._host in ("localhost", "127.0.0.1", "::1"):
                log = run.folder / "visdom.log"
                self._server = start_server(self._port, environments=self._environments, log=log)
            else:
                raise _DashboardError("is not there: nothing listens at the address")
            self._done.wait(0.2)
        if client.win_exists("") is None:
            raise _DashboardError("does not answer as a Visdom server does")

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self._host, self._port), timeout=_ANSWER_SECONDS):
                return True
        except OSError:
            return False

    def _draw_waiting(self, drawing: Drawing, client: visdom.Visdom) -> None:
        """Wait for events, then draw all that are there at once."""
        batches = [self._queue.get()]
        while not self._queue.empty():
            batches.append(self._queue.get_nowait())
        events = [event for batch in batches for event in batch or ()]
        drawing.draw(events)
        if None in batches or any(isinstance(event, Evaluated) for event in events):
            client.save(drawing.environments)
        if None in batches:
            self._done.set()


class _DashboardError(Exception):
    """Says what the dashboard does wrong, in words that follow its name; visdom's client lets it through."""


def _make_client(machine: str, port: int, *, environment: str) -> visdom.Visdom:
    """Import visdom and return its client; it makes no request yet, and none without a time limit."""
    import requests  # noqa: PLC0415
    import visdom  # noqa: PLC0415

    class Session(requests.Session):
        def request(self, *args: Any, **options: Any) -> Any:
            try:
                answer = super().request(*args, **{**options, "timeout": _ANSWER_SECONDS})
                answer.raise_for_status()
            except requests.RequestException as error:
                raise _DashboardError(f"does not answer as a Visdom server does ({error})") from error
            return answer

    class Client(visdom.Visdom):
        session = Session()
        send: bool  # visdom's stubs lack it

    Client.session.trust_env = False  # a proxy of the environment does not know this machine
    # Without `send`, the constructor neither posts nor warns that no events will come back.
    client = Client(
        machine, port=port, env=environment, raise_exceptions=True, send=False, use_incoming_socket=False
    )
    client.send = True
    return client
