"""ESResNeXt, the audio tower: a learned or Fourier spectrogram and a gated ResNeXt-50."""

from model.esresnet.esresnext import AudioFeatures, ESResNeXt

__all__ = ["AudioFeatures", "ESResNeXt"]
