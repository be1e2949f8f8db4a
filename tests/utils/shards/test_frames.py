"""Shards of samples with several images and a text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_research.numbers import Numbers, written

from ignite_trainer.data.loader import FieldTransform
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.support.errors import RunFailed
from tests.ignite_trainer.data.loading import loader
from utils.datasets import Shards, Table
from utils.datasets.sample import DescribedSample, Sample
from utils.datasets.sources.frames import Frames
from utils.shards import decoding
from utils.shards.checking import index
from utils.shards.making import Options, make
from utils.shards.reading import find
from utils.shards.writing import encode

COUNTS = (12, 1, 0, 2)


def png(value: int) -> bytes:
    """Encode a uniform grey image of 4 x 3 pixels."""
    encoded = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), value, np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def table(folder: Path) -> Table:
    """Make a table of rows with 12, 1, 0 and 2 images; image n of row r is 20 r + n. Two rows have a text."""
    rows = []
    for row, count in enumerate(COUNTS):
        names = [f"{row}-{n}.png" for n in range(count)]
        for n, name in enumerate(names):
            (folder / name).write_bytes(png(20 * row + n))
        rows.append({"images": names or None, "labels": ["even", "odd"][row % 2]})
    rows[0]["text"], rows[2]["text"] = "a film", "nothing to see"
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Table(folder / "table.jsonl", frames="all")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    make({None: table(folder)}, folder / "shards", Options(samples=2, seed=None), made_from={})
    return folder


def last_frame(frames: Frames) -> torch.Tensor:
    return frames[len(frames) - 1]


def greys(image: Any) -> Any:
    """Return the grey value of an image, or of each frame."""
    if isinstance(image, Frames):
        return [greys(image[n]) for n in range(len(image))]
    if image is None:
        return None
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 3, 4))
    return int(image.unique().item())


def test_all_frames_are_read_in_order_or_the_central_one(film: Path) -> None:
    manifest = str(film / "shards" / "manifest.jsonl")
    every = [sample.image for sample in Shards(manifest, frames="all")]  # type: ignore[attr-defined]
    assert [greys(image) for image in every] == [list(range(12)), [20], None, [60, 61]]
    central = [sample.image for sample in Shards(manifest)]  # type: ignore[attr-defined]
    assert [greys(image) for image in central] == [6, 20, None, 61]
    assert every[0] is not None
    assert every[0].names[10] == "sample 0 of 2 in 000000.tar: its 10.png"


def test_samples_have_texts_if_the_set_has_any(film: Path, tmp_path: Path) -> None:
    shards = Shards(str(film / "shards" / "manifest.jsonl"))
    samples = [shards[number] for number in range(4)]
    assert all(isinstance(sample, DescribedSample) for sample in samples)
    assert [sample[3:] for sample in samples] == [("a film",), (None,), ("nothing to see",), (None,)]
    assert [sample.labels for sample in samples] == [["even"], ["odd"]] * 2
    assert type(Shards(str(written(tmp_path, Numbers(4))))[0]) is Sample


def test_an_index_finds_texts(film: Path) -> None:
    urls = [url for url, _ in find(str(film / "shards" / "manifest.jsonl")).shards]
    assert index(urls, name="film").manifest.about.texts


class Films(Numbers):
    """Numbers with these frames, which have no files."""

    def __init__(self, count: int, frames: Frames) -> None:
        super().__init__(count)
        self._frames = frames

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)._replace(image=self._frames)


def test_frames_in_memory_are_written_unchanged() -> None:
    content = encode(Films(1, Frames((png(1), png(2)), ("its 0.PNG", "its 1.png"))), 0, audio="keep")
    assert (content["0.png"], content["1.png"]) == (png(1), png(2))
    assert set(content) == {"__key__", "flac", "json", "0.png", "1.png"}


def test_samples_without_files_keep_their_frames(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(7))
    films = Films(3, Frames((str(tmp_path / "a.png"), str(tmp_path / "a.png"))))
    shards = Shards(str(written(tmp_path / "shards", films)), frames="all")
    assert [greys(shards[number].image) for number in range(3)] == [[7, 7]] * 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10.jpg", "9.jpg", "0.png"], ["its 0.png", "its 9.jpg", "its 10.jpg"]),
        (["mask.png", "jpg"], ["its jpg"]),
        (["seg.png", "1.webp"], ["its 1.webp"]),
        (["flac", "1.flac"], None),
    ],
)
def test_numbered_images_or_the_first_one_are_frames(names: list[str], expected: list[str] | None) -> None:
    frames = decoding.frames({"__key__": "x", **dict.fromkeys(names, b"")})
    assert (None if frames is None else list(frames.names)) == expected


@pytest.fixture
def damaged(film: Path, tmp_path: Path) -> str:
    """Return the manifest of shards in which the last frame of the last sample is damaged."""
    (tmp_path / "manifest.jsonl").write_bytes((film / "shards" / "manifest.jsonl").read_bytes())
    for path in (film / "shards").glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(png(61), b"x" * len(png(61))))
    return str(tmp_path / "manifest.jsonl")


SAID = "sample 1 of 2 in 000001.tar: its 1.png: not decodable as an image"


def test_an_undecodable_frame_is_named_with_its_shard(damaged: str) -> None:
    with pytest.raises(ValueError, match=re.escape(SAID)):
        Shards(damaged)[3]


@pytest.mark.parametrize("max_share", [0.25, None])
def test_a_frame_that_a_transform_cannot_decode_makes_its_sample_unreadable(
    damaged: str, max_share: float | None
) -> None:
    shards = Shards(damaged, frames="all")
    batches = loader(
        shards,
        FieldTransform(apply=last_frame, field="image"),
        shuffle=False,
        unreadable=UnreadableSamples(shards, split="training", max_share=max_share),
    )
    if max_share is None:
        with pytest.raises(RunFailed, match=re.escape(SAID)):
            list(batches)
        return
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2]]
    assert batches.unreadable.state_dict()[3].startswith(SAID)
