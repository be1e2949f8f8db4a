"""AudioCLIP with its audio tower computed as published: the same results, more slowly.

Written from the definitions in arXiv 2104.11587 and 2106.13043. It shares weights and names with `AudioCLIP`,
but no code of the audio tower's forward pass.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.clip.texts import Text, tokens_of
from model.esresnet.esresnext import AudioFeatures, ESResNeXt
from model.esresnet.fbsp import SplineWavelets
from model.esresnet.masks import SpectrogramMasks


class PublishedAudioCLIP(AudioCLIP):
    """An AudioCLIP that caches no texts, and whose audio tower is a `PublishedTower`.

    It accepts the arguments of `AudioCLIP`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_module("audio", PublishedTower(self.audio))

    @property
    def text_is_frozen(self) -> bool:
        """False, so that every batch encodes its texts."""
        return False

    def tokenize(self, text: Text, base_str: str = "{}") -> Tensor:
        """Turn texts into tokens, without the cache."""
        tokens_of.cache_clear()
        return super().tokenize(text, base_str)


class PublishedTower(nn.Module):
    """An audio tower on the modules and parameters of an `ESResNeXt` with learned wavelets and gates.

    ```text
    frames     gathered by index, n_fft samples each, times a window padded with zeros
    wavelets   computed in every forward pass, in complex arithmetic
    spectrum   kept complex until its power is taken
    gates      from a copy of the stage's input, always pooled
    layout     contiguous throughout
    ```

    Raises:
        ValueError: The tower has no learned wavelets, or no gates.
    """

    window: Tensor

    def __init__(self, tower: ESResNeXt) -> None:
        super().__init__()
        if tower.fbsp is None or not tower.apply_attention:
            raise ValueError("PublishedTower needs spectrum fbsp and apply_attention true.")
        for name, child in tower.named_children():
            self.add_module(name, child)
        self.register_buffer("window", tower.window)
        self.hop_length, self.onesided = tower.hop_length, tower.onesided
        self.size = (tower.spec_height, tower.spec_width)

    def forward(self, audio: Tensor, *, check_units: bool = True) -> Tensor:
        """Embed audio `[B, C, T]` in 16-bit units: features `[B, D]`."""
        return self._embed(audio, complex_wavelets(cast(SplineWavelets, self.fbsp)), check_units=check_units)

    def forward_with_penalty(
        self, audio: Tensor, *, check_units: bool = True, masks: SpectrogramMasks | None = None
    ) -> AudioFeatures:
        """Embed as `forward` does, and compute the wavelet-norm penalty; the published tower has no masks."""
        assert masks is None
        fbsp = cast(SplineWavelets, self.fbsp)
        wavelets = complex_wavelets(fbsp)
        features = self._embed(audio, wavelets, check_units=check_units)
        return AudioFeatures(features, _norm_penalty(fbsp, wavelets))

    def wavelet_penalty(self) -> Tensor:
        """Compute the wavelet-norm penalty, from separately computed wavelets."""
        fbsp = cast(SplineWavelets, self.fbsp)
        return _norm_penalty(fbsp, complex_wavelets(fbsp))

    def _embed(self, audio: Tensor, wavelets: Tensor, *, check_units: bool) -> Tensor:
        if check_units and not self.training:
            peak = audio.abs().max()
            if 0.0 < peak <= 1.0:
                raise ValueError(f"Audio has a peak of {peak:.3g}; 16-bit units are expected.")
        image = self._image((audio.to(self.window.dtype) + 32768.0) * (2.0 / 65535.0) - 1.0, wavelets)
        pooled = [self._backbone(image[:, channel].contiguous()) for channel in range(image.shape[1])]
        features: Tensor = cast(nn.Linear, self.fc)(torch.stack(pooled, dim=1).sum(dim=1))
        return features

    def _image(self, audio: Tensor, wavelets: Tensor) -> Tensor:
        """Turn audio `[B, C, T]` in [-1, 1] into decibels `[B, C, 3, H, W]`."""
        frames = self._frames(audio.detach(), taps=wavelets.shape[-1])
        spectrum = torch.complex(frames @ wavelets.real.T, frames @ wavelets.imag.T)  # [B, C, N, K]
        spectrum = spectrum.transpose(-1, -2)
        if not self.onesided:
            spectrum = torch.cat((spectrum.flip(-2), spectrum), dim=-2)
        band = spectrum.shape[-2] // 3
        bands = torch.stack(spectrum[..., : 3 * band, :].split(band, dim=-2), dim=2)  # [B, C, 3, K/3, N]
        power = bands.real**2 + bands.imag**2
        size = [
            wanted if wanted > 0 else there for wanted, there in zip(self.size, power.shape[-2:], strict=True)
        ]
        if size != list(power.shape[-2:]):
            resized = F.interpolate(power.flatten(0, 1), size=size, mode="bilinear", align_corners=True)
            power = resized.unflatten(0, power.shape[:2])
        return 10.0 * torch.log10(torch.where(power == 0.0, torch.full_like(power, 1e-18), power))

    def _frames(self, audio: Tensor, *, taps: int) -> Tensor:
        """Gather windowed frames `[B, C, N, taps]`."""
        win = len(self.window)
        count = 1 + max(0, math.ceil((audio.shape[-1] - win) / self.hop_length))
        missing = (count - 1) * self.hop_length + win - audio.shape[-1]
        left = (taps - win) // 2
        around = (missing // 2 + left, missing - missing // 2 + taps - win - left)
        starts = torch.arange(count, device=audio.device)[:, None] * self.hop_length
        frames = F.pad(audio, around)[..., starts + torch.arange(taps, device=audio.device)]
        return frames * F.pad(self.window, (left, taps - win - left))

    def _backbone(self, image: Tensor) -> Tensor:
        """Run the gated stages over `[B, 3, H, W]` and pool to `[B, 2048]`."""
        named = dict(self.named_children())
        x = named["maxpool"](named["relu"](named["bn1"](named["conv1"](image))))
        for number in range(1, 5):
            seen = x.clone()
            x = named[f"layer{number}"](x)
            x = x * _gate(named[f"att{number}"], seen, size=x.shape[-2:])
        pooled: Tensor = named["avgpool"](x)
        return (pooled * _gate(named["att5"], x.clone(), size=pooled.shape[-2:])).flatten(1)


def complex_wavelets(fbsp: SplineWavelets) -> Tensor:
    """Make the bank, complex `[K, taps]`, from the three learned vectors."""
    m, fb, fc = (parameter[:, None] for parameter in (fbsp.m, fbsp.fb, fbsp.fc))
    time = math.pi * torch.linspace(-1.0, 1.0, fbsp.taps, device=fbsp.m.device, dtype=fbsp.m.dtype) + 1e-8
    x = fb * time / (m + 1e-8)
    x = torch.where(x == 0.0, torch.full_like(x, 1e-20), x)
    spline = torch.sin(x) / x
    power = torch.complex(spline, torch.zeros_like(spline)) ** m
    phase = fc * time
    wavelets = torch.sqrt(fb) * power * torch.complex(torch.cos(phase), -torch.sin(phase))
    return wavelets / math.sqrt(fbsp.taps) if fbsp.normalized else wavelets


def _norm_penalty(fbsp: SplineWavelets, wavelets: Tensor) -> Tensor:
    target = 1.0 if fbsp.normalized else math.sqrt(fbsp.taps)
    norms = torch.sqrt((wavelets.real**2 + wavelets.imag**2).sum(dim=-1))
    penalty: Tensor = ((norms - target) ** 2).mean()
    return penalty


def _gate(gate: nn.Module, x: Tensor, *, size: tuple[int, ...]) -> Tensor:
    named = dict(gate.named_children())
    pooled = F.adaptive_max_pool2d(x, tuple(size))
    return torch.sigmoid(named["bn"](named["conv_point"](named["conv_depth"](pooled))))
