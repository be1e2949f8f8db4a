"""Fixtures of the commands: sounds and images, and a function that runs a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from toy_research.protocols import Done

from model.audioclip import AudioCLIP
from model.commands import cli


@pytest.fixture
def _loaded_before(small_model: AudioCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the small model instead of loading weights, which takes seconds."""
    monkeypatch.setattr("model.weights.described.DescribedWeights.load", lambda _: small_model)


@pytest.fixture
def command(
    weights_folder: Path, _loaded_before: None, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Return a function that runs a command, with the small model unless the words name other weights."""

    def command(*words: str | Path) -> Done:
        argv = list(map(str, words))
        if "--weights" not in argv:
            argv += ["--weights", str(weights_folder)]
        status = cli.main(argv)
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


@pytest.fixture
def folder(tmp_path: Path, fill: Callable[..., None]) -> Path:
    fill(tmp_path / "mine", sounds=6, pictures=4)
    fill(tmp_path / "mine/more", sounds=2, pictures=0, start=100)
    return tmp_path / "mine"
