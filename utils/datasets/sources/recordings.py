"""Identifiers of the recordings that samples come from, such as "freesound:100032" or "youtube:-0SdAVK79lg".

Public data sets share recordings: ESC-50, UrbanSound8K, FSD50K and Clotho those of Freesound; AudioSet,
AudioCaps and VGGSound those of YouTube.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from utils.datasets.sources.cells import Record, whole

_ESC50_NAME = re.compile(r"\d+-(\d+)-[A-Z]-\d+\.\w+", re.ASCII)
_US8K_NAME = re.compile(r"(\d+)-\d+-\d+-\d+\.\w+", re.ASCII)


def freesound(number: str | int | None) -> str | None:
    """Return the identifier of a sound on Freesound by its number; None for anything else."""
    text = whole(str(number))
    return f"freesound:{text}" if text.isascii() and text.isdigit() else None


def youtube(video: str) -> str:
    """Return the identifier of a video on YouTube."""
    return f"youtube:{video}"


def esc50_recording(row: Record) -> str | None:
    """Return the recording of a row of `esc50.csv`: `src_file`, or as in the name 1-100032-A-0.wav."""
    return freesound(row.text("src_file")) or _in_name(_ESC50_NAME, row.text("filename"))


def us8k_recording(row: Record) -> str | None:
    """Return the recording of a row of `UrbanSound8K.csv`: `fsID`, or as in the name 100032-3-0-0.wav."""
    return freesound(row.text("fsID")) or _in_name(_US8K_NAME, row.text("slice_file_name"))


def _in_name(pattern: re.Pattern[str], path: str | None) -> str | None:
    match = pattern.fullmatch(PurePosixPath(path or "").name)
    return freesound(match[1]) if match else None
