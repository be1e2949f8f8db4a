"""Whatever the dashboard does, the run continues without delay, warns once, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.api.reporter import RunStart
from ignite_trainer.reporters import Visdom, visdom
from tests.ignite_trainer.reporters.events import evaluated, trained

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def started(run: RunStart, port: int, **args: Any) -> Visdom:
    reporter = Visdom(port=port, **args)
    reporter.on_start(run)
    return reporter


def carry_on(reporter: Visdom, seconds: float = 0.0) -> None:
    """Report events for some seconds, and check that reporting never blocks."""
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        reporter.on_iteration(trained(1))
        reporter.on_evaluation(evaluated(metrics={"Val. Acc.": 0.5}))
        assert time.monotonic() - began < 0.25
        if time.monotonic() >= end:
            return
        time.sleep(0.01)


def carry_on_until_warning(reporter: Visdom, caplog: pytest.LogCaptureFixture) -> str:
    deadline = time.monotonic() + 60
    while not caplog.records and time.monotonic() < deadline:
        carry_on(reporter, seconds=0.05)
    carry_on(reporter, seconds=0.1)
    began = time.monotonic()
    reporter.close()
    assert time.monotonic() - began < 4
    return the_only_warning(caplog)


def the_only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "ignite_trainer.reporters.visdom")
    message = record.getMessage()
    assert message.startswith("The dashboard at http")
    assert message.endswith("The run continues without it.")
    return message


def test_a_server_that_cannot_fetch_its_scripts_is_reported_with_its_log(
    run: RunStart,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real server. If its scripts were fetched before, the invalid environment folder makes it fail."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (run.folder / "a file").touch()
    reporter = started(run, free_port, env_path=str(run.folder / "a file" / "environments"))
    message = carry_on_until_warning(reporter, caplog)
    assert "could not be started: its server ended with exit code 1" in message
    assert f"Its output is in {run.folder / 'visdom.log'}." in message
    assert "Traceback" in (run.folder / "visdom.log").read_text()
    assert capsys.readouterr().out == ""  # no address is printed, as nothing answers there


SLEEPS = "import time; time.sleep(120)"


@pytest.mark.parametrize(
    ("patches", "reason"),
    [
        ({"BOOTSTRAP": SLEEPS, "_START_SECONDS": 0.5}, "could not be started: its server does not answer"),
        ({"_ANSWER_SECONDS": 0.5}, "Read timed out"),
    ],
)
def test_a_server_that_never_answers_is_reported(
    run: RunStart,
    free_port: int,
    silent_port: int,
    patches: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run starts the server, or the server is already running and accepts connections."""
    for name, value in patches.items():
        monkeypatch.setattr(visdom, name, value)
    reporter = started(run, free_port if "BOOTSTRAP" in patches else silent_port)
    assert reason in carry_on_until_warning(reporter, caplog)


@pytest.mark.parametrize("patches", [{"BOOTSTRAP": SLEEPS}, {"_ANSWER_SECONDS": 100.0}])
def test_a_run_that_ends_before_its_dashboard_answers_waits_only_briefly(
    run: RunStart,
    free_port: int,
    silent_port: int,
    patches: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"_FLUSH_SECONDS": 0.5, **patches}.items():
        monkeypatch.setattr(visdom, name, value)
    reporter = started(run, free_port if "BOOTSTRAP" in patches else silent_port)
    carry_on(reporter)
    began = time.monotonic()
    reporter.close()
    assert 0.4 < time.monotonic() - began < 3
    assert "did not take the last values within 0.5 s" in the_only_warning(caplog)


def test_a_log_that_cannot_be_written_is_reported(
    run: RunStart, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    (run.folder / "visdom.log").mkdir()
    reporter = started(run, free_port)
    assert "IsADirectoryError" in carry_on_until_warning(reporter, caplog)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.0 200 OK\r\n\r\nhello", b"HTTP/1.0 404 Not Found\r\n\r\nfalse", b"SSH-2.0-OpenSSH_9.6\r\n"],
)
def test_a_port_used_by_another_program_is_reported(
    run: RunStart, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    def respond(listener: socket.socket) -> None:
        for _ in range(2):  # the first connection only checks that something listens
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)
                connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=respond, args=(listener,))
        thread.start()
        reporter = started(run, listener.getsockname()[1])
        message = carry_on_until_warning(reporter, caplog)
        thread.join()
    assert "does not answer as a Visdom server does" in message
    assert not (run.folder / "visdom.log").exists()


@pytest.mark.parametrize("host", ["127.0.0.2", "https://127.0.0.2"])
def test_a_missing_server_on_another_machine_is_reported(
    run: RunStart, free_port: int, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """No server can be started on the other machine, and none is started on this one."""
    reporter = started(run, free_port, host=host)
    message = carry_on_until_warning(reporter, caplog)
    assert f"127.0.0.2:{free_port} is not running: nothing listens at the address." in message
    assert not (run.folder / "visdom.log").exists()


@pytest.mark.usefixtures("offline_bootstrap")
def test_a_server_killed_during_the_run_is_reported(
    run: RunStart,
    free_port: int,
    tmp_path: Path,
    children: Callable[[], set[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    environments = tmp_path / "environments"
    reporter = started(run, free_port, env_path=str(environments))
    deadline = time.monotonic() + 60
    while not (environments / f"{run.name}.json").exists() and time.monotonic() < deadline:
        carry_on(reporter, seconds=0.05)
    assert caplog.messages == []
    (server,) = children()
    os.kill(server, signal.SIGKILL)
    message = carry_on_until_warning(reporter, caplog)
    assert "does not answer as a Visdom server does" in message
    assert "visdom.log" in message


def test_a_run_that_never_started_can_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    Visdom().close()
    assert caplog.messages == []
