"""The Visdom dashboard. A thread does all the work, so a slow or broken dashboard never delays the run."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests

from ignite_trainer.api.reporter import Evaluated, Event, Iteration, Reporter, RunStart
from ignite_trainer.reporters.visdom_drawing import Drawing, Message, augmented, learned
from ignite_trainer.support.terminal import show

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_START_SECONDS = 120.0
_PANEL_SECONDS = 10.0  # minimum between two views of the model, for which the run waits

# The run holds the other end of the server's standard input, so the server exits when the run ends or is
# killed. It uses `os.read`, because a buffered read would hold a lock that the interpreter needs to exit.
# visdom imports torch if it can; hiding torch makes the server start seconds sooner, in far less memory.
# Since tornado 6.6, `static_url` rejects "../user/style.css", which visdom's page requests; the replacement
# accepts any path and adds no version to the address.
BOOTSTRAP = """
import os, runpy, sys, threading
def end_with_the_run():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=end_with_the_run, daemon=True).start()
class NoTorch:
    def find_spec(name, *_):
        if name == "torch":
            raise ImportError("not needed here, and slow to import")
sys.meta_path.insert(0, NoTorch)
import tornado.web
def static_url(handler, path, *_, **__):
    return handler.settings.get("static_url_prefix", "/static/") + path
tornado.web.RequestHandler.static_url = static_url
runpy.run_module("visdom.server", run_name="__main__", alter_sys=True)
"""


class Visdom(Reporter):
    """Draws the run on a Visdom dashboard, in an environment named after the run.

    Prints the dashboard's address once the server answers. If the host is this machine and nothing listens
    on the port, the run starts a server on the loopback address. This server logs to `visdom.log` in the
    run's folder and stops with the run; a server that was already running keeps running. The environment is
    saved after every evaluation, so the next server with the same `env_path` shows the environment again.

    If the dashboard fails, one warning says why, and the run continues without it.

    Args:
        host: name or URL of the machine on which the server runs; None means this machine.
        port: port of the server; None means the port in `host`, or 8097 if it has none.
        env_path: folder in which a server started by the run saves environments; None means `~/.visdom`.
    """

    section = "Visdom"
    _run: RunStart

    def __init__(self, host: str | None = None, port: int | None = None, env_path: str | None = None) -> None:
        address = urlsplit(host if host and "//" in host else f"http://{host or 'localhost'}")
        self._host = address.hostname or "localhost"
        self._port = port or address.port or 8097
        machine = address.netloc.rpartition("@")[2].removesuffix(f":{address.port}")
        self._url = f"{address.scheme}://{machine}:{self._port}"
        self._environments = Path(env_path or "~/.visdom").expanduser().absolute()
        self._queue: queue.SimpleQueue[Event | Message | None] = queue.SimpleQueue()  # None: the end
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._last_panel = -math.inf

    def on_start(self, run: RunStart) -> None:
        """Start the thread, which connects to the dashboard."""
        # Import here, not in the thread: a loader process forked during an import would inherit its lock.
        import rich.console  # noqa: F401, PLC0415

        self._run = run
        self._thread = threading.Thread(target=self._work, name="visdom", daemon=True)
        self._thread.start()
        self._put(*augmented(run.gallery))

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Start the thread, and redraw the run from its beginning."""
        self.on_start(run)
        self._put(*history)

    def on_iteration(self, step: Iteration) -> None:
        """Draw the loss, the learning rates, the speed and the metrics by iteration."""
        self._put(step)

    def on_evaluation(self, result: Evaluated) -> None:
        """Draw a split's metrics and, for the held-out split, what the model has learned."""
        if result.predictions is not None:
            import sklearn.metrics  # noqa: F401, PLC0415 - for the confusion matrix
        self._put(result)
        is_due = result.epoch == self._run.epochs or time.monotonic() - self._last_panel > _PANEL_SECONDS
        if result.split == "test" and is_due and not self._done.is_set():
            self._put(*learned(self._run.gallery, result.epoch))
            self._last_panel = time.monotonic()

    def close(self) -> None:
        """Give the dashboard a few seconds for the last values; stop the server if the run started it."""
        if self._thread is None:
            return
        self._put(None)
        if not self._done.is_set():
            self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"did not take the last values within {_FLUSH_SECONDS:g} s")
            if self._server is not None:
                self._server.kill()  # ends the request that the thread waits for
                self._thread.join(_ANSWER_SECONDS)

    def _put(self, *events: Event | Message | None) -> None:
        for event in events:
            if not self._done.is_set():
                self._queue.put(event)

    def _give_up(self, reason: str) -> None:
        if not self._done.is_set():
            self._done.set()
            log = f" Its output is in {self._run.folder / 'visdom.log'}." if self._server else ""
            message = "The dashboard at %s %s.%s The run continues without it."
            logger.warning(message, self._url, reason, log)

    # Everything below runs in the thread.

    def _work(self) -> None:
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy cannot reach this machine

                def post(endpoint: str, message: Message) -> str:
                    answer = session.post(f"{self._url}/{endpoint}", json=message, timeout=_ANSWER_SECONDS)
                    answer.raise_for_status()
                    return str(answer.text)

                self._connect()
                if post("win_exists", {"win": "", "eid": self._run.name}) != "false":
                    raise requests.RequestException("unexpected answer to win_exists")
                # visdom replaces slashes in the names of environments.
                page = f"{self._url}/env/{quote(self._run.name.replace('/', '_'), safe='')}"
                show(f"Dashboard: {page}" + (" (its server stops with the run)" if self._server else ""))
                drawing = Drawing(self._run, post)
                while not self._done.is_set():
                    events = [self._queue.get()]
                    events += [self._queue.get() for _ in range(self._queue.qsize())]
                    drawing.draw(events)
                    if None in events:
                        self._done.set()
        except requests.RequestException as error:
            self._give_up(f"does not answer as a Visdom server does ({error})")
        except Exception as error:  # a bug here must not stop the run either
            logger.debug("The dashboard's thread failed.", exc_info=True)
            self._give_up(str(error) if isinstance(error, ConnectionError) else f"failed ({error!r})")
        finally:
            if self._server is not None:
                self._server.kill()
                self._server.communicate()

    def _connect(self) -> None:
        """Wait until a server listens; start a server if the host is this machine."""
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(self._host, self._port):
            if self._server is None:
                if self._host not in ("localhost", "127.0.0.1", "::1"):
                    raise ConnectionError("is not running: nothing listens at the address")
                log = self._run.folder / "visdom.log"
                self._server = start_server(self._port, environments=self._environments, log=log)
            exit_code = self._server.poll()
            if exit_code is not None or self._done.is_set() or time.monotonic() > deadline:
                ended = "does not answer" if exit_code is None else f"ended with exit code {exit_code}"
                raise ConnectionError(
                    f"could not be started: its server {ended} (the first start on a machine needs a network "
                    "to fetch visdom's scripts)"
                )
            self._done.wait(0.2)


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_ANSWER_SECONDS):
        return True
    return False


def start_server(port: int, *, environments: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `python -m visdom.server` on 127.0.0.1, in a session that Ctrl-C does not reach."""
    options = ("-port", str(port), "-bind_local", "-logging_level", "WARNING", "-env_path", str(environments))
    command = [sys.executable, "-c", BOOTSTRAP, *options]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
        )
