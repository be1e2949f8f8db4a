"""Writes Clotho and AudioCaps in miniature, in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
CLOTHO_CLIPS = {"development": 4, "validation": 2, "evaluation": 3}
"""Number of clips, by split."""
VIDEOS = [f"-id_of_v{number:03d}" for number in range(7)]
"""YouTube identifiers: three in the training split, two in val, two in test."""

_SPLITS = {"train": range(3), "val": range(3, 5), "test": range(5, 7)}


def write_sound(path: Path, seed: int, *, samples: int = 800, rate: int = RATE) -> None:
    """Write noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)
    soundfile.write(path, noise, rate)


def write_clotho(root: Path, *, samples: int = 800, rate: int = RATE) -> Path:
    """Write Clotho's tables and sounds; clip i is i samples longer than `samples`."""
    root.mkdir(exist_ok=True)
    for split, (name, count) in enumerate(CLOTHO_CLIPS.items()):
        rows = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5"]
        about = ["file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license"]
        for clip in range(count):
            rows.append(f"Clip  {clip}.wav," + ",".join(f"caption {n} of {name} {clip}" for n in range(1, 6)))
            number = "Not found" if (name, clip) == ("evaluation", 1) else 500 * split + clip + 1
            about.append(f'Clip  {clip}.wav,a;b,{number},https://freesound.org,"[1, 2]",Müller,CC0')
            write_sound(
                root / name / f"Clip  {clip}.wav", 10 * split + clip, samples=samples + clip, rate=rate
            )
        (root / f"clotho_captions_{name}.csv").write_text("\n".join(rows) + "\n")
        (root / f"clotho_metadata_{name}.csv").write_text("\n".join(about) + "\n", encoding="latin-1")
    return root


def write_audiocaps(root: Path, *, samples: int = 800, rate: int = RATE) -> Path:
    """Write AudioCaps' tables, and sounds named after videos, one of them with its times."""
    root.mkdir(exist_ok=True)
    for name, clips in _SPLITS.items():
        rows = ["audiocap_id,youtube_id,start_time,caption"]
        for clip in clips:
            captions = [f"{name} caption {n} of {clip}" for n in range(5)]
            rows += [
                f"{10 * clip + n},{VIDEOS[clip]},30,{text}"
                for n, text in enumerate(captions if name != "train" else [f"a train caption of {clip}"])
            ]
            times = "_30_40" if clip == 2 else ""
            write_sound(
                root / f"audio/{name}/{VIDEOS[clip]}{times}.wav", clip, samples=samples + clip, rate=rate
            )
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return root
