"""Transforms of audio clips and images, for a protocol's `Transforms` section."""

from utils.transforms.audio import RandomCrop, RandomFlip, RandomNoise, RandomPadding, RandomScale, ToTensor1D
from utils.transforms.augmentation import Mixup, RandomGain, RandomRoll, RandomSpeed
from utils.transforms.image import FitImage, NormaliseImage, OneImage, RandomImageCrop, RandomImageFlip

__all__ = [
    "FitImage",
    "Mixup",
    "NormaliseImage",
    "OneImage",
    "RandomCrop",
    "RandomFlip",
    "RandomGain",
    "RandomImageCrop",
    "RandomImageFlip",
    "RandomNoise",
    "RandomPadding",
    "RandomRoll",
    "RandomScale",
    "RandomSpeed",
    "ToTensor1D",
]
