"""Synthetic sounds and images for trying the demos without your own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from model.storage.atomic import make_once
from model.storage.places import default_cache_folder
from utils.datasets.made_sounds import SOUNDS

SECONDS = 3.0
SIZE = 320
"""Width and height of an image, in pixels."""

_RATE = 44100
_VERSION = 1


def made_collection(folder: Path | None = None) -> Path:
    """Return a folder with two sounds and a drawing per class of `MadeSounds`; make it unless it exists.

    By default, it is a subfolder of the cache folder.
    """
    folder = folder or default_cache_folder() / f"made-collection-{_VERSION}"
    make_once(folder, is_complete=Path.exists, fill=_fill)
    return folder


def _fill(folder: Path) -> None:
    t = np.arange(round(SECONDS * _RATE)) / _RATE
    for target, (name, sound) in enumerate(SOUNDS):
        for take in (1, 2):
            signal = sound(np.random.default_rng([target, take]), t)
            signal *= 0.5 / np.abs(signal).max()
            soundfile.write(folder / f"{name}_{take}.wav", signal, _RATE, subtype="PCM_16")
        picture = Image.new("RGB", (SIZE, SIZE), _SKY)
        _DRAWINGS[name](ImageDraw.Draw(picture))
        picture.save(folder / f"{name}.png")


_SKY, _DARK, _LIGHT, _RED, _GOLD, _BLUE = "#cfe3ee", "#26333c", "#f7f4ea", "#c8402f", "#d9a62e", "#3d76a8"


def _siren(draw: ImageDraw.ImageDraw) -> None:
    draw.pieslice((90, 80, 230, 300), 180, 360, fill=_RED)
    draw.rectangle((70, 190, 250, 240), fill=_DARK)
    for x, y in ((30, 120), (70, 60), (160, 30), (250, 60), (290, 120)):
        draw.line((160 + (x - 160) * 0.75, 160 + (y - 160) * 0.75, x, y), fill=_RED, width=8)


def _rain(draw: ImageDraw.ImageDraw) -> None:
    for left, top, width in ((50, 70, 110), (110, 40, 120), (170, 70, 100)):
        draw.ellipse((left, top, left + width, top + 90), fill="#8b98a3")
    for number in range(15):
        x, y = 60 + 45 * (number % 5) + 12 * (number // 5), 180 + 42 * (number // 5)
        draw.line((x, y, x - 10, y + 26), fill=_BLUE, width=6)


def _clock(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((50, 50, 270, 270), fill=_LIGHT, outline=_DARK, width=12)
    for hour in range(12):
        x, y = np.sin(hour * np.pi / 6), np.cos(hour * np.pi / 6)
        draw.line((160 + 80 * x, 160 + 80 * y, 160 + 92 * x, 160 + 92 * y), fill=_DARK, width=6)
    draw.line((160, 160, 160, 90), fill=_DARK, width=8)
    draw.line((160, 160, 212, 190), fill=_DARK, width=8)


def _birds(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 240, 320, 256), fill="#7a5a3a")
    for x, colour in ((70, _GOLD), (190, _BLUE)):
        draw.ellipse((x, 150, x + 90, 240), fill=colour)
        draw.ellipse((x + 50, 110, x + 105, 165), fill=colour)
        draw.polygon(((x + 100, 130), (x + 130, 140), (x + 100, 148)), fill=_RED)
        draw.ellipse((x + 78, 126, x + 88, 136), fill=_DARK)


def _engine(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((60, 130, 230, 250), fill="#7d868c", outline=_DARK, width=8)
    for x in (80, 130, 180):
        draw.rectangle((x, 80, x + 32, 130), fill=_DARK)
    draw.ellipse((200, 150, 290, 240), fill=_RED, outline=_DARK, width=10)
    draw.ellipse((232, 182, 258, 208), fill=_LIGHT)


def _bell(draw: ImageDraw.ImageDraw) -> None:
    draw.pieslice((90, 60, 230, 300), 180, 360, fill=_GOLD)
    draw.polygon(((90, 180), (230, 180), (265, 245), (55, 245)), fill=_GOLD)
    draw.ellipse((140, 235, 180, 275), fill=_DARK)
    draw.arc((140, 30, 180, 80), 0, 360, fill=_DARK, width=8)


_DRAWINGS: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "siren": _siren,
    "rain": _rain,
    "clock_tick": _clock,
    "chirping_birds": _birds,
    "engine": _engine,
    "church_bells": _bell,
}
