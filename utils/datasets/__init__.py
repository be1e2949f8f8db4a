"""Data sets that protocols name. To add one, subclass `FoldDataset` (see `folds`)."""

from utils.datasets.audioset import AudioSet
from utils.datasets.esc50 import ESC50
from utils.datasets.folds import FoldDataset
from utils.datasets.made_scenes import MadeScenes
from utils.datasets.made_sounds import MadeSounds
from utils.datasets.official import FSD50K, AudioCaps, Clotho, VGGSound
from utils.datasets.own_data import Table
from utils.datasets.sample import Clip, Sample
from utils.datasets.shards import Shards
from utils.datasets.us8k import UrbanSound8K

__all__ = [
    "ESC50",
    "FSD50K",
    "AudioCaps",
    "AudioSet",
    "Clip",
    "Clotho",
    "FoldDataset",
    "MadeScenes",
    "MadeSounds",
    "Sample",
    "Shards",
    "Table",
    "UrbanSound8K",
    "VGGSound",
]
