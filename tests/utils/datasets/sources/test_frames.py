"""Several images of one sample, decoded one at a time from paths or contents."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from ignite_trainer.api.batch import collate_field
from ignite_trainer.support.errors import SampleUnreadable
from utils.datasets import Table
from utils.datasets.sources.frames import Frames


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Write images of 4 x 5 pixels; every pixel of image i is (i, 0, 0)."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.new("RGB", (5, 4), (i, 0, 0)).save(path)
    return paths


def test_paths_and_contents_yield_the_same_pixels(pictures: list[Path]) -> None:
    by_path = Frames(tuple(map(str, pictures)))
    by_content = Frames(tuple(path.read_bytes() for path in pictures))
    assert len(by_path) == len(by_content) == 4
    for i in range(4):
        expected = torch.tensor([i, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 4, 5)
        assert torch.equal(by_path[i], expected)
        assert torch.equal(by_content[i], expected)


@pytest.mark.parametrize(("count", "central"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_the_central_image_is_in_the_middle(count: int, central: int) -> None:
    assert Frames(("x",) * count).central == central


def test_collating_and_pinning_do_not_decode() -> None:
    frames = Frames(("not there.jpg", "nor there.jpg"))
    assert pickle.loads(pickle.dumps(frames)) == frames
    assert collate_field([frames, frames]) == [frames, frames]
    assert pin_memory([frames]) == [frames]


def test_errors_name_the_image(tmp_path: Path) -> None:
    with pytest.raises(SampleUnreadable, match=r"a\.jpg: no such image file"):
        Frames((str(tmp_path / "a.jpg"),))[0]
    with pytest.raises(SampleUnreadable, match=r"1\.jpg: not decodable as an image"):
        Frames((b"", b"no image"), ("0.jpg", "1.jpg"))[1]
    with pytest.raises(ValueError, match="no sources"):
        Frames(())
    with pytest.raises(ValueError, match="2 sources and 1 names"):
        Frames(("a", "b"), ("a",))


def test_a_table_yields_all_frames_or_the_central_one(tmp_path: Path, pictures: list[Path]) -> None:
    table = tmp_path / "own.jsonl"
    names = ", ".join(f'"{path.name}"' for path in pictures)
    table.write_text(f'{{"images": [{names}]}}\n{{"images": "1.png"}}\n{{"text": "silence"}}\n')
    central, every = Table(table), Table(table, frames="all")
    images = [sample.image for sample in central]
    assert [None if image is None else int(image[0, 0, 0]) for image in images] == [2, 1, None]
    first, second, third = (sample.image for sample in every)
    assert np.array_equal([int(first[i][0, 0, 0]) for i in range(len(first))], [0, 1, 2, 3])
    assert isinstance(second, Frames)
    assert third is None
