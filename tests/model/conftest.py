"""Shared fixtures: one thread, a small network, released files."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.audioclip import AudioCLIP
from model.weights import releases
from tests.small_backbone import SMALL_AUDIOCLIP


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: several would wait for each other in many small convolutions.

    On a busy machine, that would take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_model() -> AudioCLIP:
    """Build an AudioCLIP with small towers, in eval mode; tests must not change it."""
    torch.manual_seed(1)
    return AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False).eval()


@pytest.fixture(scope="session")
def weights_folder(small_model: AudioCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the small model in the hub's layout."""
    folder = tmp_path_factory.mktemp("weights") / "small"
    small_model.save_pretrained(folder)
    return folder


@pytest.fixture
def take_for_released(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that makes a file count as the release of the same name, whatever its size."""

    def take(path: Path) -> None:
        release = replace(releases.RELEASES[path.stem], size_bytes=path.stat().st_size)
        monkeypatch.setattr(releases, "RELEASES", {**releases.RELEASES, path.stem: release})

    return take
