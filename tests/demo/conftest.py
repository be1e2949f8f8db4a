"""Fixtures of the demos: a small model in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.audioclip import AudioCLIP
from tests.small_backbone import SMALL_AUDIOCLIP

SMALL = {**SMALL_AUDIOCLIP, "image_resolution": 32, "hop_length": 200}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_arguments() -> dict[str, object]:
    """Return the arguments of an AudioCLIP with small image and text towers."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def small_model() -> AudioCLIP:
    """Build an AudioCLIP with small image and text towers and random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AudioCLIP(**SMALL, pretrained=False).eval()


@pytest.fixture(scope="session")
def weights_folder(small_model: AudioCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the small model as a folder for `--weights`."""
    folder = tmp_path_factory.mktemp("weights") / "small"
    small_model.save_pretrained(folder)
    return folder


@pytest.fixture
def _loaded_before(small_model: AudioCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the small model instead of loading weights, which takes seconds."""
    monkeypatch.setattr("model.weights.described.DescribedWeights.load", lambda _: small_model)
