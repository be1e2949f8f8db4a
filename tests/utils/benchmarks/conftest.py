"""Fixtures: a small AudioCLIP in a folder, and a function that runs other benchmarks' commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from model.audioclip import AudioCLIP
from tests.small_backbone import SMALL_AUDIOCLIP

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
HEAR = Path(sys.prefix) / "hear"
"""Folder of HEAR's packages."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of mteb, whose import takes ten seconds, where tests of their kind are excluded."""
    excluded = "not processes" in config.option.markexpr
    return True if excluded and collection_path.name == "test_mteb.py" else None


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an AudioCLIP with small towers; return its folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    torch.manual_seed(1)
    AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False).save_pretrained(folder)
    return folder


def run(folder: Path, *commands: Sequence[str | Path], **environment: str | Path) -> str:
    """Run modules in `folder`, one after the other in one process; return what they print.

    Args:
        folder: working directory.
        commands: name and arguments of each module.
        environment: additional environment variables.
    """
    paths = [folder, ROOT, ROOT / "tests", HEAR, ROOT / "utils/benchmarks/no_tensorflow"]
    given = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, HERE / "run_modules.py", json.dumps(commands, default=str)],
        cwd=folder,
        env={**os.environ, **given, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    return output
