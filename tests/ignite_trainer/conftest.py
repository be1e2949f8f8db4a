"""Toy models in one thread, and the command on toy protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_research.protocols import Command


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Toy models are too small to share between threads, and the machine may be busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def watched_device() -> Iterator[None]:
    """Allow synchronisation again at the end of a test."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)
