"""Runs modules as `python -m` does, with small audio towers, and WAV files that soundfile decodes.

torchaudio decodes with FFmpeg's libraries, which not every machine has.
"""

from __future__ import annotations

import importlib
import json
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
    # not as tests.small_backbone: HEAR's packages include one named tests
    with importlib.import_module("small_backbone").small_backbone():
        for command in json.loads(sys.argv[1]):
            sys.argv = command
            try:
                runpy.run_module(command[0], run_name="__main__", alter_sys=True)
            except SystemExit as end:  # click's commands always end so
                if end.code:
                    raise
