"""Progress of long work: a bar at a terminal, lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_research.protocols import run_toy

from ignite_trainer.support import progress
from ignite_trainer.support.progress import Progress, ProgressLines, is_terminal


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Replace the clock by one that only the test advances."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def test_without_a_terminal_a_line_is_printed_every_half_minute(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in Progress(range(1000), desc="Decoding ESC-50", unit="clips"):
        seconds[0] += 0.125
    assert capsys.readouterr() == (
        "",
        "Decoding ESC-50: 240 of 1,000 clips (00:30)\n"
        "Decoding ESC-50: 480 of 1,000 clips (01:00)\n"
        "Decoding ESC-50: 720 of 1,000 clips (01:30)\n"
        "Decoding ESC-50: 960 of 1,000 clips (02:00)\n",
    )


def test_short_work_prints_nothing_without_a_terminal(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(desc="Embedding", total=3, unit="files") as bar:
        for _ in range(3):
            seconds[0] += 9.9
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_steps_may_have_any_size(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(desc="Unpacking x.zip", total=4_000_000, unit="B") as bar:
        seconds[0] += 61
        bar.update(2_500_000)
    with Progress(desc="Embedding", unit="files") as bar:
        seconds[0] += 31
        bar.update(8)
    output = capsys.readouterr().err.splitlines()
    assert output == ["Unpacking x.zip: 2.50MB of 4.00MB (01:01)", "Embedding: 8 files (00:31)"]


def test_hidden_progress_prints_nothing(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in Progress(range(10), desc="Decoding", shown=False):
        seconds[0] += 100
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("columns", "bar"), [(80, True), (0, False)])
def test_a_terminal_without_columns_gets_lines(
    columns: int, bar: bool, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert is_terminal() is bar
        for _ in Progress(range(2), desc="Decoding"):
            seconds[0] += 31
        terminal.flush()
        written = ""
        while "2/2" not in written and "2 of 2" not in written:
            written += os.read(outer, 65536).decode()
    os.close(outer)
    assert ("Decoding: 100%|" in written) is bar
    assert ("Decoding: 2 of 2 samples (01:02)" in written) is not bar


def test_a_stream_that_is_not_a_file_may_be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cell(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Cell())
    assert is_terminal()


def test_evaluations_of_a_run_print_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run_toy(tmp_path, Setup__epochs=1, Setup__batch_test=4)
    output = capsys.readouterr().err
    assert re.findall(r"Evaluating the held-out split: (\d of \d batches) \(00:0\d\)\n", output) == 2 * [
        "1 of 3 batches",
        "2 of 3 batches",
        "3 of 3 batches",
    ]
    assert "Training: " not in output  # the console prints its steps


def test_each_task_is_timed_from_its_own_start(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines()
    seconds[0] += 40
    lines.start()
    lines.say("at once")
    seconds[0] += 30
    lines.say("Measuring")
    assert capsys.readouterr().err == "Measuring (00:30)\n"
