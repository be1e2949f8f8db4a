"""Transforms of samples: what happens to a clip or a picture between its data set and the model."""

from utils.transforms.audio import (
    RandomCrop,
    RandomFlip,
    RandomNoise,
    RandomPadding,
    RandomScale,
    ToTensor1D,
)
from utils.transforms.image import FitImage, NormaliseImage, OneImage, RandomImageCrop, RandomImageFlip

__all__ = [
    "FitImage",
    "NormaliseImage",
    "OneImage",
    "RandomCrop",
    "RandomFlip",
    "RandomImageCrop",
    "RandomImageFlip",
    "RandomNoise",
    "RandomPadding",
    "RandomScale",
    "ToTensor1D",
]
