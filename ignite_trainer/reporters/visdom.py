"""The Visdom dashboard: what the run is, its loss by iteration, and every window of metrics.

Whatever happens to the dashboard, the run neither fails nor waits: a thread of its own does all of it.
"""

from __future__ import annotations

import html
import json
import logging
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ignite_trainer.reporters.reporter import Evaluated, Event, Iteration, Reporter, RunStart, Window
from ignite_trainer.reporters.visdom_http import DashboardAbsent, DashboardError, Transport, visdom_client
from ignite_trainer.reporters.visdom_server import Server
from ignite_trainer.visible import visible

if TYPE_CHECKING:
    import visdom

logger = logging.getLogger(__name__)

_LOSS = "Loss"
_ANSWER_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_LONGEST_QUEUE = 10_000


class _Point(NamedTuple):
    window: str
    line: str
    x: float
    y: float


class Visdom(Reporter):
    """Draws the run on a Visdom dashboard, in the environment that has the run's name.

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
        self._events: queue.Queue[Iteration | Evaluated | None] = queue.Queue(_LONGEST_QUEUE)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._thread: threading.Thread | None = None
        self._hint = ""
        self._history: list[Iteration | Evaluated] = []

    def on_start(self, run: RunStart) -> None:
        """Begin to look for the dashboard, in the background."""
        transport = self._transport = Transport(self._host, self._port, timeout=_ANSWER_SECONDS)
        # Imports visdom: not in the thread, or a loader process forked meanwhile would inherit a held lock.
        client = visdom_client(transport, environment=run.name)
        self._thread = threading.Thread(
            target=self._work, args=(run, transport, client), name="visdom", daemon=True
        )
        self._thread.start()

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:
        """Begin to look for the dashboard, where all is drawn anew."""
        self._history = [event for event in history if isinstance(event, Iteration | Evaluated)]
        self.on_start(run)

    def on_iteration(self, step: Iteration) -> None:
        """Draw the loss and the lines that go by iteration."""
        self._tell(step)

    def on_evaluation(self, result: Evaluated) -> None:
        """Draw what a split scored."""
        self._tell(result)

    def close(self) -> None:
        """Give the dashboard a few seconds for the last values, then stop a server of the run's own."""
        if self._thread is None:
            return
        self._tell(None)
        self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"did not take the last values within {_FLUSH_SECONDS:g} s")
            self._thread.join(_FLUSH_SECONDS)

    def _tell(self, event: Iteration | Evaluated | None) -> None:
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
                _draw_windows(run, client)
                _draw_points(run, client, self._history)
                while not self._done.is_set():
                    self._draw_events(run, client)
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

    def _draw_events(self, run: RunStart, client: visdom.Visdom) -> None:
        """Wait for an event, then draw all that there are: one update for each line that grew."""
        events = [self._events.get()]
        while events[-1] is not None and not self._events.empty():
            events.append(self._events.get_nowait())
        _draw_points(run, client, [event for event in events if event is not None])
        if None in events or any(isinstance(event, Evaluated) for event in events):
            client.save([run.name])
        if None in events:
            self._done.set()


def _greet(client: visdom.Visdom) -> None:
    """Make sure that a visdom server answers."""
    if client.win_exists("") is None:
        raise DashboardError("is no visdom server")


def _draw_windows(run: RunStart, client: visdom.Visdom) -> None:
    client.text(_summary(run), win="summary", opts={"title": run.name})
    width, height = (run.windows[0].width, run.windows[0].height) if run.windows else (1890, 416)
    loss = Window(name=_LOSS, x_label="#Iterations", y_label=_LOSS, width=width, height=height, lines=())
    _draw_chart(client, "loss", loss, {_LOSS: "solid"})
    for window in run.windows:
        if window.lines:
            dashes = {line.label: "dash" if line.split == "train" else "solid" for line in window.lines}
            _draw_chart(client, _id(window), window, dashes)


def _draw_points(run: RunStart, client: visdom.Visdom, events: Sequence[Iteration | Evaluated]) -> None:
    points = defaultdict(list)
    for event in events:
        for point in _points(run.windows, event):
            points[point.window, point.line].append(point)
    for (window, line), values in points.items():
        y = [point.y if math.isfinite(point.y) else math.nan for point in values]
        client.line(y, [point.x for point in values], win=window, name=_inert(line), update="append")


def _draw_chart(client: visdom.Visdom, win: str, window: Window, dashes: dict[str, str]) -> None:
    """Make a chart of lines without points; `dashes` has plotly's `dash` by the line's name in the legend."""
    traces = {
        _inert(label): {"x": [], "y": [], "mode": "lines+markers", "marker": {}, "line": {"dash": dash}}
        for label, dash in dashes.items()
    }
    options = {"title": _inert(window.name), "width": window.width, "height": window.height}
    options |= {"xlabel": _inert(window.x_label), "ylabel": _inert(window.y_label), "legend": list(traces)}
    # `line` asks for a point of each line, which `traceopts` take out again.
    client.line([[math.nan] * len(traces)], win=win, opts=options | {"traceopts": {"plotly": traces}})


def _summary(run: RunStart) -> str:
    cells = "".join(
        f"<tr><td><b>{html.escape(key)}</b></td><td>{html.escape(value)}</td></tr>"
        for key, value in run.facts.items()
    )
    protocol = html.escape(json.dumps(run.protocol, indent=2, ensure_ascii=False))
    return f"<h4>{html.escape(run.name)}</h4><table>{cells}</table><pre>{protocol}</pre>"


def _inert(text: str) -> str:
    """Text as plotly shows it: it knows links and bold type, and mathematics between two dollar signs."""
    text = html.escape(visible(text), quote=False)
    return text.replace("$", "&#36;") if text.count("$") > 1 else text


def _points(windows: tuple[Window, ...], event: Iteration | Evaluated) -> Iterator[_Point]:
    if isinstance(event, Iteration):
        yield _Point("loss", _LOSS, event.iteration, event.loss)
    for window in windows:
        for line in window.lines:
            if line.key not in event.metrics:
                continue
            if isinstance(event, Iteration) and line.by_iteration:
                yield _Point(_id(window), line.label, event.iteration, event.metrics[line.key])
            elif isinstance(event, Evaluated) and line.split == event.split and not line.by_iteration:
                yield _Point(_id(window), line.label, event.epoch, event.metrics[line.key])


def _id(window: Window) -> str:
    return f"metrics: {window.name}"
