"""Output of the command: `--help`, redirected output, colours and encodings."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from toy_research.protocols import toy

from ignite_trainer.commands import cli
from ignite_trainer.commands.flags import SHORTHANDS
from ignite_trainer.support.terminal import replace_unknown_letters

ROOT = Path(__file__).parents[3]
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def help_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"], defaults=ROOT / "protocols/defaults.json")
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_fits_into_a_terminal_of_90_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = help_text(monkeypatch, capsys, columns=90)
    assert sum(line.startswith("  python main.py") for line in output.splitlines()) == 5
    assert max(map(len, output.splitlines())) <= 90


def test_help_has_every_flag_in_a_group_and_every_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = help_text(monkeypatch, capsys, columns=100)
    for short, long, _, _ in SHORTHANDS:
        assert re.search(f"  {short}( VALUE)?, {long} VALUE", output)  # the first VALUE until Python 3.13
    for title in ("runs:", "instead of running:", "settings:", "dashboard:", "examples:"):
        assert f"\n{title}\n" in output
    for status in (0, 1, 2, cli.EXIT_STOPPED, 130):
        assert re.search(rf"\n  {status} +\w", output)


def command(folder: Path) -> list[str]:
    reporters = [{"class": "ignite_trainer.reporters.Console"}]
    protocol = folder / "toy.json"
    protocol.write_text(json.dumps(toy(folder / "results", Reporters=reporters)))
    return [sys.executable, "main.py", "-c", str(protocol), "--trust", "toy_research"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **more}


def test_redirected_output_is_plain_text(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("wb") as log:
        subprocess.run(
            command(tmp_path), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True, env=environment()
        )
    written = (tmp_path / "log.txt").read_bytes()
    assert b"epoch 2/2" in written
    assert b"\r" not in written
    assert b"\x1b" not in written
    assert "█" not in written.decode()


@pytest.mark.processes
@pytest.mark.parametrize("wanted", [True, False])
def test_no_color_switches_colours_off(wanted: bool, tmp_path: Path) -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    more = {"TERM": "xterm-256color"} | ({} if wanted else {"NO_COLOR": "1"})
    process = subprocess.Popen(
        command(tmp_path), cwd=ROOT, stdin=inner, stdout=inner, stderr=inner, env=environment(**more)
    )
    os.close(inner)
    written = bytearray()
    while chunk := _read(outer):
        written += chunk
    os.close(outer)
    assert process.wait() == 0
    assert b"epoch 2/2" in written
    assert b"\r" in written  # there are bars
    assert wanted or not COLOUR.search(written)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(("encoding", "written"), [("ascii", b"V?gel ?"), ("cp1252", b"V\xf6gel ?")])
def test_letters_that_an_encoding_lacks_are_replaced(
    encoding: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding=encoding))
    replace_unknown_letters()
    print("Vögel 音", end="", flush=True)
    assert printed.getvalue() == written
