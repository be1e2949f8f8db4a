"""Writes small data sets in their published layouts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

RATE = 8000

ESC50_CLASSES = (
    (0, "dog"),
    (1, "rooster"),
    (10, "rain"),
    (11, "sea_waves"),
    (12, "crackling_fire"),
    (7, "hen"),
)
"""Targets and categories; all but the last belong to ESC-10."""


def write_esc50(root: Path) -> Path:
    """Write ESC-50 with one clip of each class in each fold; return the root."""
    rows: list[Sequence[object]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        for target, category in ESC50_CLASSES:
            source = 1000 * fold + target
            name = f"{fold}-{source}-A-{target}.wav"
            write_tones(root / "audio" / name, [target], seed=source)
            rows.append((name, fold, target, category, category != "hen", source, "A"))
    (root / "meta").mkdir()
    _write(root / "meta/esc50.csv", rows)
    return root


US8K_CLASSES = ("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling")


def write_us8k(root: Path) -> Path:
    """Write UrbanSound8K with one clip of each class in folds 1 to 3; return the root.

    Lengths, sample rates and the number of channels differ, as in the published files.
    """
    rows: list[Sequence[object]] = [("slice_file_name", "fold", "classID", "class")]
    for fold in (1, 2, 3):
        for target, name in enumerate(US8K_CLASSES):
            number = 10 * fold + target
            file = f"{number}-{target}-0-0.wav"
            (root / f"audio/fold{fold}").mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(
                -9000, 9000, (6000 + 1000 * target, 1 + number % 2)
            )
            rate = (22050, 44100)[target % 2]
            soundfile.write(root / f"audio/fold{fold}" / file, noise.astype(np.int16), rate)
            rows.append((file, fold, target, name))
    (root / "metadata").mkdir()
    _write(root / "metadata/UrbanSound8K.csv", rows)
    return root


FSD50K_LABELS = ("Bass_guitar", "Chirp_and_tweet", "Guitar", "Human_group_actions")
FSD50K_NAMES = ("bass guitar", "chirp and tweet", "guitar", "human group actions")
FSD50K_SETS = ((0, 2), (1,), (2,), (1, 3), (3,))
"""Sets of labels, which the clips cycle through: a bass guitar is a guitar, as in the published hierarchy."""


def write_fsd50k(root: Path, *, train: int = 5, val: int = 3, eval_: int = 4) -> Path:
    """Write FSD50K with this many clips of each split; return the root."""
    tables = root / "FSD50K.ground_truth"
    tables.mkdir(parents=True)
    mids = [f"/m/{number}" for number in range(len(FSD50K_LABELS))]
    vocabulary = zip(range(len(mids)), FSD50K_LABELS, mids, strict=True)
    _write(tables / "vocabulary.csv", list(vocabulary))
    number = 1000
    for table, splits in (("dev", ["train"] * train + ["val"] * val), ("eval", [""] * eval_)):
        (root / f"FSD50K.{table}_audio").mkdir()
        rows: list[Sequence[object]] = [("fname", "labels", "mids", *(["split"] if table == "dev" else []))]
        for index, split in enumerate(splits):
            classes = FSD50K_SETS[index % len(FSD50K_SETS)]
            labels = [",".join(values[c] for c in classes) for values in (FSD50K_LABELS, mids)]
            rows.append((number, *labels, *([split] if split else [])))
            write_tones(root / f"FSD50K.{table}_audio/{number}.wav", classes, seed=number)
            number += 1
        _write(tables / f"{table}.csv", rows)
    return root


VGGSOUND_NAMES = (
    "bird chirping, tweeting",
    "church bell ringing",
    "dog barking",
    "people running",
    "playing violin, fiddle",
)


def write_vggsound(root: Path, *, train: int = 6, test: int = 3) -> Path:
    """Write VGGSound with this many clips of each split; return the root."""
    rows: list[Sequence[object]] = []
    for number, split in enumerate(["train"] * train + ["test"] * test):
        label = number % len(VGGSOUND_NAMES)
        rows.append((f"{number:011d}", 30, VGGSOUND_NAMES[label], split))
        write_tones(root / f"audio/{number:011d}_000030.wav", [label], seed=number)
    _write(root / "vggsound.csv", rows)
    return root


CLOTHO_CLIPS = {"development": 4, "validation": 2, "evaluation": 3}
"""Number of clips, by split."""


def write_clotho(root: Path, *, samples: int = 800, rate: int = RATE) -> Path:
    """Write Clotho's tables and sounds; clip i is i samples longer than `samples`. Return the root."""
    root.mkdir(exist_ok=True)
    for split, (name, count) in enumerate(CLOTHO_CLIPS.items()):
        rows = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5"]
        about = ["file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license"]
        for clip in range(count):
            rows.append(f"Clip  {clip}.wav," + ",".join(f"caption {n} of {name} {clip}" for n in range(1, 6)))
            number = "Not found" if (name, clip) == ("evaluation", 1) else 500 * split + clip + 1
            about.append(f'Clip  {clip}.wav,a;b,{number},https://freesound.org,"[1, 2]",Müller,CC0')
            write_noise(
                root / name / f"Clip  {clip}.wav", 10 * split + clip, samples=samples + clip, rate=rate
            )
        (root / f"clotho_captions_{name}.csv").write_text("\n".join(rows) + "\n")
        (root / f"clotho_metadata_{name}.csv").write_text("\n".join(about) + "\n", encoding="latin-1")
    return root


AUDIOCAPS_SPLITS = {"train": range(4), "val": range(4, 6), "test": range(6, 8)}
"""Numbers of the videos, by split."""
AUDIOCAPS_VIDEOS = [f"-id_of_v{number:03d}" for number in range(8)]
"""YouTube identifiers."""


def write_audiocaps(root: Path, *, samples: int = 800, rate: int = RATE) -> Path:
    """Write AudioCaps' tables, and sounds named after videos, one of them with its times; return the root."""
    root.mkdir(exist_ok=True)
    for name, clips in AUDIOCAPS_SPLITS.items():
        rows = ["audiocap_id,youtube_id,start_time,caption"]
        for clip in clips:
            captions = [f"{name} caption {n} of {clip}" for n in range(5)]
            rows += [
                f"{10 * clip + n},{AUDIOCAPS_VIDEOS[clip]},30,{text}"
                for n, text in enumerate(captions if name != "train" else [f"a train caption of {clip}"])
            ]
            times = "_30_40" if clip == 2 else ""
            path = root / f"audio/{name}/{AUDIOCAPS_VIDEOS[clip]}{times}.wav"
            write_noise(path, clip, samples=samples + clip, rate=rate)
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return root


AUDIOSET_NAMES = ("Speech", "Dog", "Child speech, kid speaking")


def write_audioset(root: Path, *, segments: int) -> Path:
    """Write AudioSet with this many segments in each table; return the root.

    Every fourth segment has no sound, every third no image.
    """
    (root / "audio").mkdir(parents=True)
    (root / "frames").mkdir()
    number = 0
    for table in ("balanced_train", "unbalanced_train", "eval"):
        lines = ["# created", f"# num_segs={segments}", "# YTID, start_seconds, end_seconds, positive_labels"]
        for i in range(segments):
            mids = ",".join(f"/m/{mid}" for mid in sorted({i % 3, (i // 2) % 3}))
            lines.append(f'{number:011d}, 30.000, 40.000, "{mids}"')
            samples = np.random.default_rng(number).normal(0, 0.02 + 0.1 * (i % 3), 4410)
            if i % 3:
                for frame in range(i % 3):
                    pixels = np.random.default_rng(frame).integers(0, 256, (36, 64, 3), np.uint8)
                    Image.fromarray(pixels).save(root / f"frames/{number:011d}_{frame}.jpg")
            if i % 4:
                soundfile.write(root / f"audio/Y{number:011d}.wav", samples, 44100)
            number += 1
        (root / f"{table}_segments.csv").write_text("\n".join(lines) + "\n")
    classes = [(number, f"/m/{number}", name) for number, name in enumerate(AUDIOSET_NAMES)]
    _write(root / "class_labels_indices.csv", [("index", "mid", "display_name"), *classes])
    return root


def write_noise(path: Path, seed: int, *, samples: int = 800, rate: int = RATE) -> None:
    """Write noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)
    soundfile.write(path, noise, rate)


def write_tones(path: Path, classes: Sequence[int], *, seed: int) -> None:
    """Write 0.2 s of one tone per class in noise, at 8 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random, time = np.random.default_rng(seed), np.arange(RATE // 5) / RATE
    tones = [np.sin(2 * np.pi * 300 * (1 + number) * time + random.random()) for number in classes]
    soundfile.write(path, 0.2 * sum(tones) + 0.02 * random.normal(size=len(time)), RATE)


def _write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
