"""The command line: help without torch, exit statuses, default weights, and the name of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_research.protocols import Done

from model.commands import cli, messages
from model.weights import releases
from model.weights.described import LIMITS, RELEASED, UNTRAINED
from model.weights.fetch import FetchError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("words", [[], ["embed"], ["search"], ["classify"], ["export"]])
def test_help_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m model {' '.join(words)}".rstrip())


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['model', '--help']; from model.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'requests'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("usage: python -m model")
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: command"),
        (["index", "folder"], "invalid choice: 'index'"),
        (["search", "x"], "required: --in"),
        (["search", "x", "--in", ".", "-n", "0"], "'0' is not a positive whole number"),
        (
            ["embed", ".", "--out", "x.parquet", "--batch-size", "many"],
            "'many' is not a positive whole number",
        ),
        (
            ["embed", ".", "--outt", "x.parquet"],
            "required: --out; there is no option --outt, did you mean --out?",
        ),
        (
            ["search", "x", "--in", ".", "--wieghts=x"],
            "there is no option --wieghts, did you mean --weights?",
        ),
        (["classify", ".", "--labels", "a", "b", "--xyz"], "there is no option --xyz\n"),
        (["classify", "--labels", "dog", "rain", "x.wav"], "required: PATH (before --labels, "),
    ],
)
def test_a_wrong_command_has_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    printed = capsys.readouterr().err
    assert "usage: python -m model" in printed and said in printed


SEARCH = """
import sys
from model.commands import cli, search

def found(*_, **__):
    for _ in range(20_000):
        print("\u6f22\u5b57.png")
    return 0

search.search = found
sys.exit(cli.main(["search", "rain", "--in", "."]))
"""


def test_a_reader_may_stop_early() -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", SEARCH], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    assert command.stderr.read() == b"" and command.wait() == 1
    command.stderr.close()


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    words = [sys.executable, "-c", SEARCH]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.splitlines()[0] == rb"\u6f22\u5b57.png"


def test_the_default_weights_are_downloaded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The released weights are only named here, because they are large."""
    asked = list[Path]()

    def fetch(_: object, target: Path) -> Path:
        asked.append(target)
        raise FetchError(f"{target}: offline")

    monkeypatch.setattr(releases, "fetch", fetch)
    monkeypatch.setattr(messages, "is_fetched", lambda _: False)
    words = ["embed", str(folder), "--out", str(tmp_path / "x.safetensors")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"Downloading the weights {RELEASED} (537 MB), this once; --weights takes others."
    assert said[1] == f'{asked[0]}: offline Random weights need no file: name them "untrained".'
    assert len(asked) == 1 and asked[0].name == f"{RELEASED}.pt"
    path = tmp_path / f"{RELEASED}.pt"
    torch.save({}, path)
    monkeypatch.setattr(releases, "fetch", lambda *_: path)
    monkeypatch.setattr(messages, "is_fetched", lambda _: True)
    assert messages.open_weights(None).source == path
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_loaded_before")
def test_random_weights_are_explained(folder: Path, command: Callable[..., Done]) -> None:
    done = command("search", "rain", "--in", folder, "--weights", UNTRAINED)
    assert done.status == 0
    said = done.err.splitlines()
    assert said == [LIMITS, "8 sounds, 4 images; newly embedded: 12"]


def test_absent_weights_are_reported(folder: Path, command: Callable[..., Done]) -> None:
    done = command("embed", folder, "--out", folder.parent / "x.parquet", "--weights", "absent.pt")
    assert done.status == 1
    assert done.err.startswith("absent.pt: no such file or folder of runs.")
    assert done.err.endswith('Random weights need no file: name them "untrained".\n')
