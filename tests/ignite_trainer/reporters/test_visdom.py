"""A real visdom server shows the run: its summary, curves and legends."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ignite_trainer.api.reporter import Evaluated, Line, Reporter, RunStart, Window
from ignite_trainer.reporters import Visdom
from ignite_trainer.reporters.drawing import COLOURS
from ignite_trainer.reporters.visdom import _listens
from tests.ignite_trainer.reporters.events import evaluated, trained

Windows = dict[str, dict[str, Any]]


def report_run(reporter: Reporter, run: RunStart) -> None:
    reporter.on_start(run)
    for epoch, accuracy in enumerate((0.1, 0.8, math.nan)):
        if epoch:
            reporter.on_iteration(trained(10 * epoch, 5.0 - epoch, Cost=7.0 * epoch))
            reporter.on_evaluation(evaluated(epoch, "train", {"Val. Acc.": 0.9}))
        reporter.on_evaluation(evaluated(epoch, metrics={"Val. Acc.": accuracy, "elsewhere": 1.0}))


def lines_of(window: dict[str, Any]) -> dict[str, tuple[list[float], list[float | None]]]:
    return {trace["name"]: (trace["x"], trace["y"]) for trace in window["content"]["data"]}


def wait_for_server(port: int, *, running: bool = True) -> None:
    """Wait until a server listens on the port, or until none does if `running` is false."""
    deadline = time.monotonic() + 60
    while _listens("127.0.0.1", port) != running:
        assert time.monotonic() < deadline, (
            f"{'nothing listens' if running else 'a server still listens'} on port {port}"
        )
        time.sleep(0.05)


def wait_for_address(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the first printed line without its newline."""
    deadline = time.monotonic() + 60
    while not (said := capsys.readouterr().out):
        assert time.monotonic() < deadline, "nothing was printed"
        time.sleep(0.05)
    return said.removesuffix("\n")


@pytest.fixture
def server(running_server: int, run: RunStart) -> Iterator[int]:
    """Yield the port of a running visdom server; delete the run's environment afterwards."""
    wait_for_server(running_server)
    yield running_server
    requests.post(f"http://localhost:{running_server}/delete_env", json={"eid": run.name}, timeout=60)


def read_with_visdoms_client(port: int, name: str) -> Windows:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'warn' method is deprecated", DeprecationWarning)
        import visdom as package

        # Any: its type stubs lack `session`.
        client: Any = package.Visdom(port=port, env=name, raise_exceptions=True, use_incoming_socket=False)
    try:
        windows: Windows = json.loads(client.get_window_data())
        return windows
    finally:
        client.session.close()


def shown(port: int, run: RunStart, *results: Evaluated) -> Windows:
    """Report a run to a server that is already running; return the windows that it shows."""
    reporter = Visdom(port=port)
    reporter.on_start(run)
    for result in results:
        reporter.on_evaluation(result)
    reporter.close()
    return read_with_visdoms_client(port, run.name)


def test_the_dashboard_shows_the_reported_values(
    run: RunStart, server: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Nothing listens there: a request through this proxy fails.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    reporter = Visdom(host="http://127.0.0.1", port=server)
    report_run(reporter, run)
    reporter.close()
    monkeypatch.delenv("http_proxy")
    assert caplog.messages == []

    windows = read_with_visdoms_client(server, run.name)  # works only because close() left the server running
    metrics = ["metrics: Performance", "metrics: Cost in $"]
    assert set(windows) == {"summary", "Loss", *metrics, "Learning rate", "Samples/s"}
    loss, performance, cost = (windows[name] for name in ("Loss", *metrics))
    assert lines_of(loss) == {"Loss": ([10, 20], [4.0, 3.0])}
    assert lines_of(performance) == {
        "Val. Acc. Train.": ([1, 2], [0.9, 0.9]),
        "Val. Acc. Eval.": ([0, 1, 2], [0.1, 0.8, None]),
    }
    assert lines_of(cost) == {"Cost Train.": ([10, 20], [7.0, 14.0])}
    assert (performance["title"], performance["width"], performance["height"]) == ("Performance", 1230, 416)
    layout = performance["content"]["layout"]
    assert layout["title"] == "Performance"
    assert (layout["xaxis"]["title"], layout["yaxis"]["title"]) == ("#Epochs", "Accuracy")
    assert layout["showlegend"] is True
    # As in the report: one colour per metric; training lines are dashed, their markers hollow.
    styles = {trace["name"]: (trace["line"], trace["marker"]) for trace in performance["content"]["data"]}
    assert styles == {
        "Val. Acc. Train.": ({"color": COLOURS[0], "dash": "dash"}, {"symbol": "circle-open"}),
        "Val. Acc. Eval.": ({"color": COLOURS[0], "dash": "solid"}, {"symbol": "circle"}),
    }
    # Fits a browser window 1280 pixels wide.
    assert max(window["width"] for window in windows.values()) <= 1240
    assert (cost["title"], cost["width"], cost["height"]) == ("Cost in $", 900, 300)


def test_a_resumed_run_redraws_its_own_lines_and_leaves_those_of_other_runs_unchanged(
    run: RunStart, server: int
) -> None:
    """The first run of a sweep is resumed while the sweep's chart shows no other run; then one is added."""
    results = [evaluated(epoch, metrics={"Val. Acc.": epoch / 4}) for epoch in (1, 2, 3)]
    for folder, history, now in (("a", 0, 2), ("a", 1, 3), ("b", 0, 1)):
        reporter = Visdom(port=server)
        named = dataclasses.replace(run, name=f"Run {folder}", folder=run.folder / folder, sweep="Sweep")
        reporter.on_resume(named, results[:history])
        for result in results[history:now]:
            reporter.on_evaluation(result)
        reporter.close()
    first, second = ([1, 2, 3], [0.25, 0.5, 0.75]), ([1], [0.25])
    own = read_with_visdoms_client(server, "Run a")["metrics: Performance"]
    assert lines_of(own) == {"Val. Acc. Eval.": first}
    shared = read_with_visdoms_client(server, "Sweep")["Val. Acc. by run"]
    assert lines_of(shared) == {"a": first, "b": second}


def test_the_summary_is_escaped_and_complete_and_the_protocol_is_collapsed(
    run: RunStart, server: int
) -> None:
    long = dataclasses.replace(run, facts={**run.facts, "Rule": "x" * 1000})
    summary = shown(server, long)["summary"]
    content = summary["content"]
    assert (summary["type"], summary["width"]) == ("text", 1230)
    assert summary["height"] >= 24 * (4 + 3 + 10)
    assert "<h4>Experiment-CV1 &lt;first&gt;</h4>" in content
    assert "<tr><td><b>rule [a-z]</b></td><td>&lt;b&gt;12 &amp; 3&lt;/b&gt;</td></tr>" in content
    assert "<details><summary>Protocol</summary><pre>{" in content
    assert "<script>" not in content
    assert "/data/&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in content


def test_the_confusion_matrix_matches_the_report_but_shows_full_class_names(
    run: RunStart, server: int, guesses: Any
) -> None:
    names = ("<b>dog</b>", "a class name that is longer than any name that the report has room for", "cow")
    predictions = guesses([(0, 0), (1, 1), (2, 1), (2, 2)], classes=3, names=names)
    window = shown(server, run, evaluated(predictions=predictions))["confusion"]
    (heat,) = window["content"]["data"]
    layout = window["content"]["layout"]
    assert heat["x"] == heat["y"] == ["&lt;b&gt;dog&lt;/b&gt;", names[1], "cow"]
    assert heat["z"] == [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]
    assert heat["text"] == [["1", "", ""], ["", "1", ""], ["", "1", "1"]]
    for axis in (layout["xaxis"], layout["yaxis"]):
        assert (axis["automargin"], axis["dtick"]) == (True, 1)  # every name is shown, none is cut
    assert layout["title"] == "Confusion matrix: 4 samples, 75.0% correct"
    assert window["width"] - 7 * len(names[1]) > 300
    assert (window["width"] <= 1230, window["height"] - 7 * len(names[1]) > 300) == (True, True)


def test_the_printed_address_opens_the_environment_of_the_run(
    run: RunStart, server: int, capsys: pytest.CaptureFixture[str]
) -> None:
    named = dataclasses.replace(run, name="50% of a/b? #1 & ü")
    reporter = Visdom(port=server)
    reporter.on_start(named)
    said = wait_for_address(capsys)
    reporter.close()
    address = f"http://localhost:{server}/env/50%25%20of%20a_b%3F%20%231%20%26%20%C3%BC"
    assert said == f"Dashboard: {address}"
    assert requests.get(address, timeout=60).ok
    environments = requests.post(f"http://localhost:{server}/env_state", json={}, timeout=60).json()
    assert urllib.parse.unquote(address.rpartition("/")[2]) in environments
    assert read_with_visdoms_client(server, named.name)["summary"]


@pytest.mark.usefixtures("offline_bootstrap", "nothing_left")
def test_a_server_started_by_the_run_stops_with_it_and_saves_the_dashboard(
    run: RunStart,
    free_port: int,
    tmp_path: Path,
    children: Callable[[], set[int]],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Visdom(port=free_port, env_path=str(tmp_path / "environments"))
    began = time.monotonic()
    report_run(reporter, run)
    assert time.monotonic() - began < 1  # reporting does not wait for the server
    wait_for_server(free_port)
    listening = {
        address
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        for address, port in [line.split()[1].split(":")]
        if int(port, 16) == free_port and line.split()[3] == "0A"
    }
    assert listening == {"0100007F"}  # only 127.0.0.1
    (own_server,) = children()
    assert os.getpgid(own_server) != os.getpgrp()  # Ctrl-C reaches only the run
    address = f"http://localhost:{free_port}/env/Experiment-CV1%20%3Cfirst%3E"
    assert wait_for_address(capsys) == f"Dashboard: {address} (its server stops with the run)"
    reporter.close()
    reporter.close()
    assert caplog.messages == []
    assert not _listens("127.0.0.1", free_port)
    assert "You can navigate to" in (run.folder / "visdom.log").read_text()
    saved = json.loads((tmp_path / "environments" / f"{run.name}.json").read_text())["jsons"]
    assert lines_of(saved["metrics: Performance"])["Val. Acc. Eval."] == ([0, 1, 2], [0.1, 0.8, None])


def test_a_killed_run_takes_its_server_down_with_it(
    run: RunStart, free_port: int, offline_bootstrap: str, children: Callable[[], set[int]]
) -> None:
    script = f"""
        import time
        from pathlib import Path
        from ignite_trainer.reporters import Visdom, visdom
        from ignite_trainer.api.reporter import RunStart
        visdom.BOOTSTRAP = {offline_bootstrap!r}
        reporter = Visdom(port={free_port}, env_path={str(run.folder)!r})
        folder = Path({str(run.folder)!r})
        reporter.on_start(RunStart(folder=folder, name="killed", protocol={{}}, environment={{}}, facts={{}},
                                   windows=(), epochs=1, iterations_per_epoch=1))
        time.sleep(120)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        wait_for_server(free_port)
        assert children() == {process.pid}
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for_server(free_port, running=False)


def test_names_of_charts_and_lines_are_escaped(run: RunStart, server: int) -> None:
    """plotly renders links, bold type, and mathematics between dollar signs."""
    label = '<a href="http://example.org">x</a> & $\\href{a}{b}$'
    line = Line(key="a", label=label, split="test")
    window = Window(name=label, x_label=label, y_label=label, width=900, height=300, lines=(line,))
    run = dataclasses.replace(run, windows=(window,))
    chart = shown(server, run, evaluated(metrics={"a": 0.5}))[f"metrics: {label}"]
    written = '&lt;a href="http://example.org"&gt;x&lt;/a&gt; &amp; &#36;\\href{a}{b}&#36;'
    layout = chart["content"]["layout"]
    titles = [chart["title"], layout["title"], layout["xaxis"]["title"], layout["yaxis"]["title"]]
    assert titles == [written] * 4
    assert lines_of(chart) == {written: ([1], [0.5])}
