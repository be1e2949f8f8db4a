"""Measures the clips per second that a core reads from plain files and from shards, in alternating rounds.

Run by hand on an idle machine; takes about a minute:

    python tests/benchmarks/reading.py [--clips 200] [--rounds 5] [--root FOLDER] [--to reading.json]

The clips are 5 s long, from a data set in the layout of ESC-50, or else synthetic. One process with one
thread reads them from the system's file cache, in the random order of an epoch: this measures decoding and
the overhead of the containers, not a disk. `feeding.py` computes the requirements of many GPUs from these
results.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ignite_trainer.results.run_folder import describe_environment  # noqa: E402
from ignite_trainer.support.files import write_json  # noqa: E402
from model.audio_input import Waveform, read_audio, resample  # noqa: E402
from model.clip.image_input import preprocess_image  # noqa: E402
from utils.datasets import ESC50, MadeSounds, Sample, Shards  # noqa: E402
from utils.shards.making import Options, make  # noqa: E402
from utils.shards.reading import PIPES_VARIABLE  # noqa: E402
from utils.shards.writing import encode  # noqa: E402

SAMPLE_RATE = 44100
KINDS = ("ogg", "flac", "wav")
PICTURES = 20
LONG = 20  # clips of 10 s


class Way(NamedTuple):
    """A way to read clips: a function that reads all of them, their number, and their mean size."""

    read: Callable[[], object]
    clips: int
    size_bytes: float


def main(argv: list[str]) -> None:
    """Measure, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared/data/esc18")
    parser.add_argument("--to", type=Path, help="JSON file for the results")
    flags = parser.parse_args(argv)
    torch.set_num_threads(1)
    os.environ[PIPES_VARIABLE] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = _clips(flags.root, folder, flags.clips)
        ways = {**_ways_of_clips(clips, folder), **_other_ways(clips)}
        found = measure(ways, rounds=flags.rounds)
    for name, figures in found.items():
        ratio = f"  {figures['by_files']:.3f} x plain files" if "by_files" in figures else ""
        size = figures["bytes_per_clip"] / 1e3
        print(f"{name:42}{figures['clips_per_second']:8.1f} per second  {size:7.1f} kB{ratio}")
    if flags.to:
        environment = describe_environment(seed=0, device=torch.device("cpu"))
        write_json(flags.to, {"environment": environment, "clips": clips.title, "figures": found})


def measure(ways: Mapping[str, Way], *, rounds: int) -> dict[str, dict[str, float]]:
    """Time all ways in alternating rounds.

    Returns:
        For each way, the clips per second (median over the rounds) and bytes per clip; for shards also their
        speed divided by that of plain files in the same round (median over the rounds).
    """
    for way in ways.values():
        way.read()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way.read()
            seconds[name].append(time.perf_counter() - start)
    found = {}
    for name, way in ways.items():
        speed = way.clips / statistics.median(seconds[name])
        found[name] = {"clips_per_second": speed, "bytes_per_clip": way.size_bytes}
        plain = seconds.get(f"{name.partition(', shards')[0]}, files")
        if ", shards" in name and plain:
            ratios = (files / ours for files, ours in zip(plain, seconds[name], strict=True))
            found[name]["by_files"] = statistics.median(ratios)
    return found


class _Clips(Dataset[Sample]):
    """Decoded clips, which can be written in any format."""

    sample_rate = SAMPLE_RATE

    def __init__(self, title: str, audio: Sequence[Waveform]) -> None:
        self.title, self.audio = title, audio

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.audio[index], None, ["sound"])


def _clips(root: Path, folder: Path, count: int) -> _Clips:
    source = (
        ESC50(root, SAMPLE_RATE, cache=folder / "cache", progress=False)
        if (root / "meta/esc50.csv").is_file()
        else MadeSounds(folder / "sounds", seconds=5.0, cache=folder / "cache", progress=False)
    )
    chosen = range(0, len(source), max(1, len(source) // count))[:count]
    return _Clips(source.results_name, [source[index].audio for index in chosen])


def _ways_of_clips(clips: _Clips, folder: Path) -> dict[str, Way]:
    """Return ways to read each kind of file: plain, in local shards, and in shards through a pipe."""
    ways = {}
    for kind in KINDS:
        manifest = folder / kind / "manifest.jsonl"
        make({None: clips}, manifest.parent, Options(samples=100, audio=kind), made_from={})  # type: ignore[arg-type]
        here = Shards(str(manifest))
        there = Shards([f"pipe:cat {url}" for url, _ in here.shards], manifest=str(manifest))
        order = np.asarray(here.epoch_order(1))
        files = []
        for index in range(len(clips)):
            files.append(folder / kind / f"{index}.{kind}")
            files[-1].write_bytes(encode(clips, index, audio=kind)[kind])  # type: ignore[arg-type]
        size = statistics.mean(path.stat().st_size for path in files)
        # The same clips as in the shards, but in a different order.
        reading = functools.partial(_read_files, [files[index] for index in order])
        ways[f"{kind} of 5 s, files"] = Way(reading, len(clips), size)
        for name, dataset in (("shards", here), ("shards through a pipe", there)):
            reading = functools.partial(_read_shards, dataset, order)
            ways[f"{kind} of 5 s, {name}"] = Way(reading, len(clips), size)
    return ways


def _other_ways(clips: _Clips) -> dict[str, Way]:
    """Return ways to read the files of AudioSet: clips of 10 s, most of them at 48 kHz, and video frames."""
    pairs = zip(clips.audio[::2], clips.audio[1::2], strict=False)
    long = _Clips("", [np.concatenate(pair, axis=1) for pair in list(pairs)[:LONG]])
    ways = {}
    for rate, name in ((SAMPLE_RATE, "44.1 kHz"), (48000, "48 kHz, resampled")):
        at_rate = _Clips("", [resample(audio, SAMPLE_RATE, rate) for audio in long.audio])
        at_rate.sample_rate = rate
        for kind in ("ogg", "flac"):
            content = [encode(at_rate, index, audio=kind)[kind] for index in range(len(long))]
            size = statistics.mean(map(len, content))
            way = Way(functools.partial(_decode_sounds, content), len(content), size)
            ways[f"{kind} of 10 s, {name}"] = way
    pictures = _pictures()
    size = statistics.mean(map(len, pictures))
    ways["frame of 640 x 360, jpg, to 224 x 224"] = Way(
        functools.partial(_decode_pictures, pictures), len(pictures), size
    )
    return ways


def _pictures() -> list[bytes]:
    """Return JPEG frames of photographs if there are any, otherwise of smooth colours."""
    paths = sorted((ROOT.parent / "shared/data/demo/images").glob("*.jpg"))
    random = np.random.default_rng(0)
    found = []
    for number in range(PICTURES):
        if paths:
            with Image.open(paths[number % len(paths)]) as opened:
                picture = opened.convert("RGB")
        else:
            picture = Image.fromarray(random.integers(0, 256, (9, 16, 3), np.uint8))
        encoded = io.BytesIO()
        picture.resize((640, 360)).save(encoded, "JPEG", quality=90)
        found.append(encoded.getvalue())
    return found


def _read_files(paths: Sequence[Path]) -> None:
    for path in paths:
        read_audio(path, SAMPLE_RATE)


def _read_shards(shards: Shards, order: Any) -> None:
    for read in shards.stream(order):
        read()


def _decode_sounds(contents: Sequence[bytes]) -> None:
    for content in contents:
        read_audio(io.BytesIO(content), SAMPLE_RATE)


def _decode_pictures(contents: Sequence[bytes]) -> None:
    for content in contents:
        preprocess_image(io.BytesIO(content))


if __name__ == "__main__":
    main(sys.argv[1:])
