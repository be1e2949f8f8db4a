"""ESResNeXt, the audio tower: a learned or Fourier spectrogram and a gated ResNeXt-50."""

from .esresnext import AudioFeatures, ESResNeXt
from .masks import SpectrogramMasks

__all__ = ["AudioFeatures", "ESResNeXt", "SpectrogramMasks"]
