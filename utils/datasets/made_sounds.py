"""Small data set of synthetic sounds in ESC-50's layout, for runs without a download.

Its six classes differ clearly and vary in pitch, timing, level and background noise, so any model learns them
in minutes. Results on it say nothing about ESC-50.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from model.audio_input import Waveform
from model.storage.atomic import flush, make_once
from model.storage.places import default_cache_folder
from utils.datasets.esc50 import ESC50
from utils.datasets.sources.cells import Record

Signal = NDArray[np.float64]

VERSION = 1
"""Increase it whenever a sound changes, so that older sets are not reused."""

FILE_RATE = 44100
FOLDS = 5
MOST_CLIPS = 1000
"""Limit per class and fold, 30,000 files in all, so that a protocol does not fill the disk."""


class MadeSounds(ESC50):
    """Synthetic sounds: 6 classes in 5 folds, generated at the first use and then read like ESC-50.

    The other arguments are `FoldDataset`'s.

    Args:
        root: folder of the sounds; None for a subfolder of the cache folder.
        seed: random seed; equal arguments give equal sounds.
        seconds: length of each clip, in seconds.
        clips_per_class_and_fold: number of clips per class and fold; 8 make 240 clips, 48 of them held out.

    Raises:
        ValueError: The root contains something else.
        OSError: The root cannot be written.
    """

    title = "MadeSounds"
    published = None
    classes = 6

    def __init__(
        self,
        root: str | Path | None = None,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        fold: int | Sequence[int] | None = None,
        validation_fold: int | Sequence[int] | Literal["next"] | None = None,
        mono: bool | None = None,
        transform_audio: Callable[[Waveform], Any] | None = None,
        target_transform: Callable[[list[str]], Any] | None = None,
        cache: str | Path | None = None,
        progress: bool = True,
        seed: int = 0,
        seconds: float = 1.0,
        clips_per_class_and_fold: int = 8,
    ) -> None:
        if not 0.1 <= seconds <= 60:
            raise ValueError(f"seconds is {seconds!r}; 0.1 to 60 is expected.")
        if type(clips_per_class_and_fold) is not int or not 1 <= clips_per_class_and_fold <= MOST_CLIPS:
            raise ValueError(
                f"clips_per_class_and_fold is {clips_per_class_and_fold!r}; 1 to {MOST_CLIPS} is expected."
            )
        if type(seed) is not int or seed < 0:
            raise ValueError(f"seed is {seed!r}; an integer of 0 or more is expected.")
        made_from = {
            "version": VERSION,
            "seed": seed,
            "seconds": float(seconds),
            "clips_per_class_and_fold": clips_per_class_and_fold,
        }
        if root is None:
            key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
            parent = Path(cache) if cache is not None else default_cache_folder()
            root = parent / f"made-sounds-{key}"
        folder = Path(root).expanduser()
        _make(folder, made_from)
        super().__init__(
            folder,
            sample_rate,
            train=train,
            fold=fold,
            validation_fold=validation_fold,
            mono=mono,
            transform_audio=transform_audio,
            target_transform=target_transform,
            cache=cache,
            progress=progress,
        )

    def recording(self, row: Record) -> str | None:
        """Return the number of the sound, which is not one of Freesound's."""
        return f"made:{row.text('src_file')}"


def _make(root: Path, made_from: dict[str, Any]) -> None:
    """Write the sounds unless the root already contains them."""
    record = "meta/made_from.json"

    def is_complete(folder: Path) -> bool:
        if not folder.exists():
            return False
        try:
            there = json.loads((folder / record).read_text())
        except (OSError, ValueError):
            there = "something else"
        if there != made_from:
            raise ValueError(
                f"root is {root}, which holds {there} instead of sounds made from {made_from}; name a folder "
                "that does not exist."
            )
        return True

    def fill(folder: Path) -> None:
        (folder / "audio").mkdir()
        (folder / "meta").mkdir()
        (folder / record).write_text(json.dumps(made_from))
        with (folder / "meta/esc50.csv").open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
            for number in range(FOLDS * made_from["clips_per_class_and_fold"]):
                fold = number % FOLDS + 1
                for target, (category, _) in enumerate(SOUNDS):
                    source = 100000 + len(SOUNDS) * number + target
                    name = f"{fold}-{source}-A-{target}.wav"
                    random = np.random.default_rng([made_from["seed"], target, number])
                    _write_wav(folder / "audio" / name, _clip(target, random, made_from["seconds"]))
                    writer.writerow([name, fold, target, category, False, source, "A"])

    try:
        make_once(root, is_complete=is_complete, fill=fill)
    except OSError as error:
        raise OSError(f"root is {root}, where sounds cannot be written ({error}).") from error


def _write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    encoded = io.BytesIO()  # libsndfile hides the reason why a write fails
    soundfile.write(encoded, samples, FILE_RATE, subtype="PCM_16", format="WAV")
    with path.open("wb") as file:
        file.write(encoded.getvalue())
        flush(file)


def _clip(target: int, random: np.random.Generator, seconds: float) -> NDArray[np.int16]:
    """Return a sound `[T]` with a peak of -18 to -3 dBFS, in noise at an SNR of 20 to 40 dB."""
    _, sound = SOUNDS[target]
    t = np.arange(round(seconds * FILE_RATE)) / FILE_RATE
    signal = sound(random, t)
    noise = random.standard_normal(len(t))
    snr_db = random.uniform(20, 40)
    return at_random_peak(signal / rms(signal) + noise / rms(noise) * 10 ** (-snr_db / 20), random)


def at_random_peak(signal: Signal, random: np.random.Generator) -> NDArray[np.int16]:
    """Scale a signal to a peak of -18 to -3 dBFS."""
    peak_db = random.uniform(-18, -3)
    scaled: Signal = signal / np.abs(signal).max() * 32767 * 10 ** (peak_db / 20)
    return np.rint(scaled).astype(np.int16)


def rms(signal: Signal) -> float:
    """Return the root mean square of a signal."""
    return float(np.sqrt(np.mean(signal**2)))


# Each sound is a function of a generator and the time axis in seconds, `[T]`; its level is arbitrary.


def _siren(random: np.random.Generator, t: Signal) -> Signal:
    """A tone with two harmonics that wails up and down."""
    octaves = random.uniform(0.4, 0.7) * np.sin(
        2 * np.pi * random.uniform(1, 3) * t + random.uniform(0, 2 * np.pi)
    )
    phase = 2 * np.pi * np.cumsum(random.uniform(500, 1000) * 2**octaves) / FILE_RATE
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)


def _rain(random: np.random.Generator, t: Signal) -> Signal:
    """Steady hiss with drops: short bursts of noise at random times."""
    signal = 0.2 * random.standard_normal(len(t))
    for start in _times(random, t, per_second=random.uniform(40, 120)):
        signal += random.uniform(0.3, 1.5) * _decay(t, start, 0.004) * random.standard_normal(len(t))
    return signal


def _clock_tick(random: np.random.Generator, t: Signal) -> Signal:
    """Clicks at an even pace."""
    pace, pitch = random.uniform(3, 7), random.uniform(1800, 3500)
    signal = np.zeros_like(t)
    for start in np.arange(random.uniform(0, min(0.8 / pace, t[-1] / 2)), t[-1], 1 / pace):
        signal += _decay(t, start, 0.004) * np.sin(2 * np.pi * pitch * (t - start))
    return signal


def _chirping_birds(random: np.random.Generator, t: Signal) -> Signal:
    """Short whistles that rise or fall, at random times."""
    pitch = random.uniform(3000, 5500)
    signal = np.zeros_like(t)
    for start in _times(random, t, per_second=random.uniform(5, 9)):
        length = random.uniform(0.05, 0.12)
        local = np.clip((t - start) / length, 0, 1)
        sweep = random.uniform(0.1, 0.4) * random.choice([-1, 1])
        phase = 2 * np.pi * pitch * length * (local + sweep * local**2 / 2)
        signal += np.sin(np.pi * local) ** 2 * np.sin(phase)
    return signal


def _engine(random: np.random.Generator, t: Signal) -> Signal:
    """A low hum of many harmonics, modulated by the strokes."""
    pitch = random.uniform(45, 90)
    signal = np.zeros_like(t)
    for harmonic in range(1, 25):
        weight = random.uniform(0.3, 1) / harmonic**0.7
        signal += weight * np.sin(2 * np.pi * harmonic * pitch * t + random.uniform(0, 2 * np.pi))
    signal *= 1 + 0.5 * np.sin(np.pi * pitch / 2 * t)
    return signal


def _church_bells(random: np.random.Generator, t: Signal) -> Signal:
    """Strokes of a bell: decaying inharmonic partials (hum, prime, tierce, quint, nominal)."""
    pitch = random.uniform(300, 600)
    signal = np.zeros_like(t)
    for start in np.arange(random.uniform(0, min(0.2, t[-1] / 2)), t[-1], random.uniform(0.4, 0.7)):
        for ratio in (0.5, 1.0, 1.183, 1.506, 2.0, 2.514):
            ringing = np.sin(2 * np.pi * ratio * pitch * (t - start))
            signal += random.uniform(0.5, 1) * _decay(t, start, 0.4 / ratio) * ringing
    return signal


def _times(random: np.random.Generator, t: Signal, *, per_second: float) -> list[float]:
    """Draw random times, at least one."""
    return list(random.uniform(0, t[-1], max(1, round(per_second * t[-1]))))


def _decay(t: Signal, start: float, seconds: float) -> Signal:
    """Return 0 before `start`, then an exponential decay from 1."""
    return np.where(t < start, 0.0, np.exp(-np.maximum(t - start, 0) / seconds))


SOUNDS: tuple[tuple[str, Callable[[np.random.Generator, Signal], Signal]], ...] = (
    ("siren", _siren),
    ("rain", _rain),
    ("clock_tick", _clock_tick),
    ("chirping_birds", _chirping_birds),
    ("engine", _engine),
    ("church_bells", _church_bells),
)
"""Category and sound by target."""
