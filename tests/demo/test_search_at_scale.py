"""An index of 2,000 files: progress, a fast second update, and ten added files."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import search
from demo.indexing import read_store
from model.audioclip import AudioCLIP

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data"
FILES, REAL_FILES = 2000, 100


def in_a_terminal(*words: str | Path) -> str:
    """Run the command in a terminal and return its output."""
    chunks: list[bytes] = []

    def read(descriptor: int) -> bytes:
        chunks.append(os.read(descriptor, 4096))
        return chunks[-1]

    command = shlex.join([sys.executable, str(ROOT / "demo/search.py"), *map(str, words)])
    assert pty.spawn(["sh", "-c", f"stty cols 100 rows 40; exec {command}"], read) == 0
    return b"".join(chunks).decode()


@pytest.mark.slow
def test_two_thousand_files(
    tmp_path: Path,
    fill: Callable[..., None],
    small_model: AudioCLIP,
    weights_folder: Path,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With small image and text towers and the audio tower as it is; real files among them where present."""
    folder = tmp_path / "mine"
    folder.mkdir()
    suffixes = (".wav", ".ogg", ".flac", ".jpg")
    real = [path for path in sorted(REAL.rglob("*")) if path.suffix in suffixes] if REAL.is_dir() else []
    real = real[:: max(1, len(real) // REAL_FILES)]
    for number, path in enumerate(real):
        shutil.copyfile(path, folder / f"{number}_{path.name}")
    sounds = (FILES - len(real)) * 2 // 3
    fill(folder, sounds=sounds, pictures=FILES - len(real) - sounds)
    (folder / "broken.wav").write_bytes(b"no sound")

    began = time.monotonic()
    shown = in_a_terminal("index", folder, "--weights", weights_folder)
    first_seconds = time.monotonic() - began
    assert len(re.findall(r"Embedding: +\d+%\|", shown)) > 10
    (store,) = own_cache.glob("index-*")
    first = read_store(store)
    assert len(first.files) == FILES + 1 and "wrong: 1" in shown and "broken.wav: not decodable" in shown

    small_model.embed_text("x")  # what is imported where it is needed is now there
    began = time.monotonic()
    assert search.main(["search", "dog barking", "--in", str(folder), "--weights", str(weights_folder)]) == 0
    second_seconds = time.monotonic() - began
    assert capsys.readouterr().err.count("embedded now: 0,") == 1
    assert second_seconds < 3

    fill(folder, sounds=6, pictures=4, start=10_000)
    assert search.main(["index", str(folder), "--weights", str(weights_folder)]) == 0
    assert "embedded now: 10," in capsys.readouterr().err
    second = read_store(store)
    assert len(second.embeddings) == len(first.embeddings) + 10
    assert all((second.embeddings[key] == row).all() for key, row in first.embeddings.items())
    with capsys.disabled():
        print(f"\n{len(real)} real files; first {first_seconds:.0f} s, second {second_seconds:.2f} s")
