"""Published data sets with official splits, each listed in a table."""

from utils.datasets.official.audiocaps import AudioCaps
from utils.datasets.official.clotho import Clotho
from utils.datasets.official.fsd50k import FSD50K
from utils.datasets.official.vggsound import VGGSound

__all__ = ["FSD50K", "AudioCaps", "Clotho", "VGGSound"]
