"""A small ResNeXt in place of the audio tower's ResNeXt-50 (same names, 3 % of its parameters); its input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

RESNEXT_50 = "model.esresnet.esresnext.resnext50_32x4d"

SMALL_AUDIOCLIP: dict[str, Any] = {
    "embed_dim": 16,
    "image_resolution": 64,
    "vision_layers": (1, 1, 1, 1),
    "vision_width": 8,
    "transformer_width": 32,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "n_fft": 256,
    "hop_length": 100,
    "win_length": 200,
}
"""Arguments of an AudioCLIP with small towers."""


def clips(batch: int, channels: int = 1, samples: int = 4000, seed: int = 0) -> Tensor:
    """Make white noise `[B, C, T]` in 16-bit units."""
    noise = np.random.default_rng(seed).standard_normal((batch, channels, samples))
    return torch.from_numpy(3000.0 * noise).float()


class NarrowBottleneck(Bottleneck):
    """A block whose output is not wider than its stage."""

    expansion = 1


def narrow_resnext(*, weights: None, num_classes: int) -> ResNet:  # noqa: ARG001 - torchvision's name
    """Build four stages of one block each, with 512 features instead of 2048."""
    network = ResNet(NarrowBottleneck, [1, 1, 1, 1], num_classes, groups=2, width_per_group=8)
    network.inplanes = 32  # narrower than the first stage, which therefore adapts its input as the others do
    network.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(32)
    network.layer1 = network._make_layer(NarrowBottleneck, 64, blocks=1)
    return network


@contextmanager
def small_backbone() -> Iterator[None]:
    """Build small audio towers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RESNEXT_50, narrow_resnext)
        yield


@contextmanager
def published_backbone() -> Iterator[None]:
    """Build audio towers with the published ResNeXt-50 again."""
    from torchvision.models import resnext50_32x4d

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RESNEXT_50, resnext50_32x4d)
        yield
