"""Transforms of images equal those of open_clip and torchvision, for single images and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.loader import FieldTransform
from model.clip.image_input import preprocess_image
from tests.ignite_trainer.data import loading
from utils.datasets.sample import Sample
from utils.datasets.sources.frames import Frames
from utils.transforms import FitImage, NormaliseImage, OneImage, RandomImageCrop, RandomImageFlip


def picture(height: int, width: int, *, seed: int = 0) -> Tensor:
    """Make a smooth image with an edge, uint8 `[3, H, W]`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    smooth[:, :, width // 3] = 1.0
    return (smooth * 255).round().to(torch.uint8)


def batch_of(*pictures: Tensor) -> PaddedBatch:
    return PaddedBatch.stack(list(pictures))


def streams(count: int, epoch: int = 0) -> SampleRandom:
    return SampleRandom.of(seed=3, epoch=epoch, indices=range(count))


@pytest.mark.parametrize(("height", "width"), [(90, 140), (140, 90), (64, 64), (300, 301), (224, 400)])
def test_fitting_and_normalising_equal_clips_preprocessing(height: int, width: int) -> None:
    pixels = picture(height, width)
    found = NormaliseImage()(FitImage(224)(pixels))
    expected = preprocess_image(pixels.permute(1, 2, 0).numpy())
    assert found.shape == expected.shape == (3, 224, 224)
    # PIL rounds after each of two passes, torch does not; levels differ by 1 of 255, rarely by 2.
    assert float((found - expected).abs().max()) < 2.1 / 255 / 0.26
    assert float((found - expected).abs().mean()) < 0.3 / 255 / 0.26


def test_a_batch_of_unequal_widths_is_fitted_like_single_images() -> None:
    pictures = [picture(40, 60), picture(40, 50, seed=1)]
    fitted = FitImage(32).batch(batch_of(*pictures), streams(2))
    assert fitted.lengths.tolist() == [32, 32]
    for row, pixels in zip(fitted.values, pictures, strict=True):
        assert torch.equal(row, FitImage(32)(pixels))


def test_an_image_covers_a_rectangular_size_and_is_cropped_centrally() -> None:
    pixels = torch.zeros(3, 20, 80, dtype=torch.uint8)
    pixels[:, :, 40:] = 200
    fitted = FitImage([10, 20])(pixels)
    assert fitted.shape == (3, 10, 20)
    assert fitted[0, 5, 2] == 0
    assert fitted[0, 5, -3] == 200


def test_random_crops_do_not_depend_on_the_batch() -> None:
    pictures = [picture(48, 64, seed=seed) for seed in range(6)]
    crop = RandomImageCrop(24, scale=(0.2, 0.8), interpolation="bilinear")
    together = crop.batch(batch_of(*pictures), streams(6)).values
    random = streams(6)
    area = random.uniform(0.2, 0.8) * 48 * 64
    ratio = torch.exp(random.uniform(float(np.log(3 / 4)), float(np.log(4 / 3))))
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    widths, heights = widths.clamp(max=64), heights.clamp(max=48)
    left, top = random.integers(64 - widths + 1), random.integers(48 - heights + 1)
    for index, pixels in enumerate(pictures):
        box = (int(top[index]), int(left[index]), int(heights[index]), int(widths[index]))
        expected = functional.resized_crop(pixels, *box, [24, 24])
        assert torch.equal(together[index], expected)
        alone = crop(pixels, SampleRandom.of(seed=3, epoch=0, indices=[index]))
        assert torch.equal(alone, expected)
    assert not torch.equal(together, crop.batch(batch_of(*pictures), streams(6, epoch=1)).values)


def test_a_crop_of_the_entire_image_only_scales_it() -> None:
    pixels = picture(30, 60)
    crop = RandomImageCrop([15, 30], scale=(1.0, 1.0), ratio=(2.0, 2.0))
    assert torch.equal(crop(pixels), functional.resize(pixels, [15, 30], 3))


def test_half_of_the_images_are_mirrored() -> None:
    pixels = picture(8, 9)
    count = 400
    flipped = RandomImageFlip().batch(batch_of(*[pixels] * count), streams(count)).values
    is_flipped = (flipped == pixels.flip(-1)).flatten(1).all(dim=1)
    assert ((flipped == pixels).flatten(1).all(dim=1) ^ is_flipped).all()
    assert 160 < int(is_flipped.sum()) < 240
    assert torch.equal(RandomImageFlip(0.0)(pixels), pixels)


def test_the_model_or_the_arguments_decide_the_normalisation() -> None:
    pixels = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    siglip = NormaliseImage(clip="ViT-B-16-SigLIP")(pixels)
    assert torch.allclose(siglip, torch.ones(3, 4, 4))  # (1 - 0.5) / 0.5
    own = NormaliseImage(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))(pixels.float() / 255)
    assert own[:, 0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    """Write five uniform images of different sizes."""
    paths = []
    for number in range(5):
        pixels = np.full((20 + number, 30, 3), 40 * number, np.uint8)
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return Frames(tuple(paths))


def test_evaluation_uses_the_central_image(frames: Frames) -> None:
    assert OneImage(16, train=False)(frames).unique().tolist() == [80]
    assert OneImage(16, train=False)(Frames(frames.sources[:4])).unique().tolist() == [80]


def test_training_chooses_an_image_by_seed_epoch_and_sample(frames: Frames) -> None:
    dataset: Any = [Sample(np.ones((1, 4), np.float32), frames, ["x"]) for _ in range(40)]

    def chosen(batch_size: int, epoch: int) -> list[int]:
        steps = [FieldTransform(apply=step, field="image") for step in (OneImage(16), RandomImageFlip())]
        batches = loading.loader(dataset, *steps, batch_size=batch_size, shuffle=False)
        return [int(one[0, 0, 0]) for batch in loading.epoch(batches, epoch) for one in batch.sample.image]

    first = chosen(40, 1)
    assert set(first) == {0, 40, 80, 120, 160}
    assert chosen(7, 1) == first
    assert chosen(40, 2) != first


def json_value(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitImage(0), "size is 0; it must be a number of pixels, or"),
        (lambda: OneImage([1, 2, 3]), r"size is \[1, 2, 3\]; it must be"),
        (lambda: FitImage(8, interpolation=json_value("cubic")), "is 'cubic'; it must be"),
        (lambda: RandomImageCrop(8, scale=(0.5, 2)), r"scale is \(0.5, 2\); it must be"),
        (lambda: RandomImageFlip(2), "p is 2; it must be between 0 and 1"),
        (lambda: NormaliseImage(std=(1, 1, 0)), "each must be three numbers"),
        (lambda: NormaliseImage(clip="RN51"), 'clip is "RN51", which is not a model of open_clip'),
        (lambda: FitImage(8)(torch.zeros(1, 8, 8)), r"values are torch.float32 \[1, 1, 8, 8\]; images"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_padded_images_are_not_mirrored() -> None:
    with pytest.raises(ValueError, match="differ in width; put OneImage or FitImage first"):
        RandomImageFlip(1.0).batch(batch_of(picture(8, 9), picture(8, 12)), streams(2))
