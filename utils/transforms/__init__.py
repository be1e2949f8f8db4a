"""Transforms of samples: what happens to a clip between its data set and the model."""

from utils.transforms.audio import (
    RandomCrop,
    RandomFlip,
    RandomNoise,
    RandomPadding,
    RandomScale,
    ToTensor1D,
)

__all__ = ["RandomCrop", "RandomFlip", "RandomNoise", "RandomPadding", "RandomScale", "ToTensor1D"]
