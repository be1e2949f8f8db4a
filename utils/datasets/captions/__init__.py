"""Published data sets whose clips have captions."""

from utils.datasets.captions.audiocaps import AudioCaps
from utils.datasets.captions.clotho import Clotho

__all__ = ["AudioCaps", "Clotho"]
