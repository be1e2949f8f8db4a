"""Runs a module as `python -m` does, with small audio towers, and WAV files that soundfile decodes.

torchaudio decodes with FFmpeg's libraries, which not every machine has.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import soundfile
import torch
import torchaudio


def load(path: str) -> tuple[torch.Tensor, int]:
    """Read a file as `torchaudio.load` does: float32 `[C, T]` in [-1, 1], and the sample rate."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


if __name__ == "__main__":
    torchaudio.load = load
    sys.path[0] = str(Path.cwd())  # as with `python -m`
    sys.argv = sys.argv[1:]
    # not as tests.small_backbone: HEAR's packages include one named tests
    with importlib.import_module("small_backbone").small_backbone():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
