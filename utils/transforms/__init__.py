"""Transforms of audio clips and images, for a protocol's `Transforms` section."""

from utils.transforms.audio import RandomCrop, RandomFlip, RandomNoise, RandomPadding, RandomScale, ToTensor1D
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
