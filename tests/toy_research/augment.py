"""Transforms: some of batches, some plain callables."""

from __future__ import annotations

import random as python_random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignite_trainer.api.batch import BatchTransform, MixingTransform, PaddedBatch
from ignite_trainer.api.randomness import SampleRandom


class Fit(BatchTransform):
    """Crops to `length` at a random offset, or from the start; pads shorter ones with zeros."""

    def __init__(self, *, length: int, train: bool = True) -> None:
        self._length, self._train = length, train

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        spare = (batch.lengths - self._length).clamp(min=0)
        offsets = random.integers(spare + 1) if self._train else torch.zeros_like(spare)
        rows = []
        for row, length, offset in zip(batch.values, batch.lengths, offsets, strict=True):
            cut = row[..., int(offset) : min(int(offset) + self._length, int(length))]
            rows.append(torch.nn.functional.pad(cut, (0, self._length - cut.shape[-1])))
        return PaddedBatch(torch.stack(rows), torch.full_like(batch.lengths, self._length))


class Hiss(BatchTransform):
    """Adds white noise."""

    def __init__(self, *, level: float = 0.1) -> None:
        self._level = level

    def batch(self, batch: PaddedBatch, random: SampleRandom) -> PaddedBatch:
        longest = batch.values.shape[-1]
        noise = self._level * random.normal(longest, device=batch.values.device)
        noise = noise * (torch.arange(longest) < batch.lengths[:, None])
        return batch._replace(values=batch.values + noise[:, None])


class Blend(MixingTransform):
    """Mixes a sample with its partner by a share between a half and 1."""

    def __init__(self, *, p: float = 1.0) -> None:
        self._p = p

    def __call__(
        self, batch: PaddedBatch, partners: Tensor, random: SampleRandom
    ) -> tuple[PaddedBatch, Tensor]:
        chosen = (random.uniform() < self._p) & (partners != torch.arange(len(partners)))
        share = torch.where(chosen, random.uniform(0.5, 1.0), 1.0)
        own = share.to(batch.values.dtype).reshape(-1, *[1] * (batch.values.ndim - 1))
        mixed = batch.values * own + batch.values[partners] * (1 - own)
        lengths = torch.where(chosen, torch.maximum(batch.lengths, batch.lengths[partners]), batch.lengths)
        return PaddedBatch(mixed, lengths), share


class GlobalHiss:
    """A per-sample callable that draws from the global generators of three libraries."""

    def __init__(self, *, level: float = 0.1) -> None:
        self._level = level

    def __call__(self, value: Any) -> Tensor:
        drawn = np.random.normal() + torch.randn(()).item() + python_random.gauss(0, 1)  # noqa: NPY002
        return torch.as_tensor(value) + self._level * drawn


def scale(value: Any, *, factor: float = 1.0) -> Tensor:
    """Multiply."""
    return torch.as_tensor(value) * factor


def reverse_name(value: str) -> str:
    """A transform of a field that is not an array."""
    return value[::-1]
