"""Fixtures of the demos: a small model in a folder, sounds and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from toy_research.protocols import Done

from demo import search
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
    monkeypatch.setattr("demo.weights.Weights.load", lambda _: small_model)


@pytest.fixture
def command(
    weights_folder: Path, _loaded_before: None, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Return a function that runs `search.py`, with the small model unless the words name other weights."""

    def command(*words: str | Path) -> Done:
        argv = list(map(str, words))
        if "--weights" not in argv:
            argv += ["--weights", str(weights_folder)]
        status = search.main(argv)
        return Done(status, *capsys.readouterr())

    return command


@pytest.fixture
def fill() -> Callable[..., None]:
    """Return a function that writes different noises and images of random colours to a folder."""

    def fill(folder: Path, *, sounds: int, pictures: int, start: int = 0, seconds: float = 0.2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(start, start + sounds):
            noise = np.random.default_rng(number).uniform(-0.5, 0.5, round(seconds * 44100))
            soundfile.write(folder / f"sound_{number:04}.wav", noise, 44100)
        for number in range(start, start + pictures):
            colours = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(colours).resize((60, 40)).save(folder / f"picture_{number:04}.png")

    return fill
