"""Per-sample random numbers, which depend only on the seed, the epoch and the sample's index.

The augmentation of a sample therefore does not depend on batch size, workers, device, rank or resuming. A
sample that an epoch has several times (`Setup.sampling`) has other random numbers each time. The generator is
counter-based: the n-th number in a stream is a hash of (key, n). It has no state to save, and its integer
arithmetic is the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF  # 32-bit words are kept in int64 tensors, which wrap the same way on every device


def _mix(word: Tensor) -> Tensor:
    """Scramble 32-bit words by a bijection in which every input bit affects every output bit.

    Shifts and multipliers are those of C. Wellons' hash function `lowbias32`.
    """
    word = word & _MASK  # a copy
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word.bitwise_xor_(word >> shift).mul_(multiplier).bitwise_and_(_MASK)
    return word.bitwise_xor_(word >> 16)


def _fold(key: Tensor, word: Tensor | int) -> Tensor:
    """Fold another word into a 62-bit key of two 31-bit halves."""
    word = torch.as_tensor(word, dtype=torch.int64, device=key.device)
    low, high = key & 0x7FFFFFFF, key >> 31
    low = _mix(low ^ _mix(word ^ 0x243F6A88))
    high = _mix(high ^ _mix(low ^ word ^ 0x13198A2E))
    return ((high & 0x7FFFFFFF) << 31) | (low & 0x7FFFFFFF)


class SampleRandom:
    """Independent random streams for the B samples of a batch.

    Every call draws the next numbers from each stream. Scalars are drawn on the CPU in float64, so offsets
    and lengths do not depend on the batch's device.
    """

    def __init__(self, keys: Tensor) -> None:
        """Start one stream per key; `keys` is int64 `[B]`. See also `of` and `from_torch`."""
        self._keys = keys.to(device="cpu", dtype=torch.int64)
        self._draws = 0

    @classmethod
    def of(
        cls,
        *,
        seed: int,
        epoch: int,
        indices: Sequence[int] | Tensor,
        repetitions: Sequence[int] | Tensor = (),
    ) -> SampleRandom:
        """Make the streams for samples in one epoch.

        Args:
            seed: seed of the run.
            epoch: number of the epoch.
            indices: positions of the B samples in the data set.
            repetitions: for each sample, how often it was drawn before in this epoch; by default, never.

        Example:
            >>> together = SampleRandom.of(seed=1, epoch=2, indices=[7, 8]).uniform()
            >>> alone = SampleRandom.of(seed=1, epoch=2, indices=[8]).uniform()
            >>> bool(together[1] == alone[0])
            True
        """
        indices = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        keys = torch.zeros_like(indices)
        for word in (seed & _MASK, (seed >> 32) & _MASK, epoch, indices):
            keys = _fold(keys, word)
        if len(repetitions):
            repeated = torch.as_tensor(repetitions, dtype=torch.int64)
            # A sample that is drawn once has the same numbers with any `Setup.sampling`.
            keys = torch.where(repeated > 0, _fold(keys, repeated), keys)
        return cls(keys)

    @classmethod
    def from_torch(cls, batch: int = 1) -> SampleRandom:
        """Make `batch` streams seeded by torch's global generator, for transforms called outside a run."""
        return cls(torch.randint(2**62, (batch,), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self._keys)

    def stream(self, position: int) -> SampleRandom:
        """Derive independent streams for a position, such as that of a transform in a pipeline."""
        return SampleRandom(_fold(self._keys, position + 1))

    def select(self, rows: Tensor) -> SampleRandom:
        """Return the streams for some samples in their current state; `rows` holds positions or a mask."""
        chosen = SampleRandom(self._keys[rows.cpu()])
        chosen._draws = self._draws
        return chosen

    def seeds(self) -> list[int]:
        """Return a 62-bit seed per sample, for other libraries' generators."""
        return [int(key) for key in self._keys]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw one number per sample from [low, high): float64 `[B]`, on the CPU."""
        return low + (high - low) * self._words(1)[:, 0].double() / 2**32

    def integers(self, limit: Tensor) -> Tensor:
        """Draw one integer per sample from 0 to `limit` - 1. Both `limit` and the result are int64 `[B]`."""
        limit = limit.to(device="cpu", dtype=torch.int64)
        if int(limit.min()) < 1:
            raise ValueError(f"limit contains {int(limit.min())}; every limit must be 1 or more.")
        return torch.minimum((self.uniform() * limit).long(), limit - 1)

    def normal(self, count: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Draw standard normal numbers with the Box-Muller transform: float32 `[B, count]`, on `device`."""
        half = (count + 1) // 2
        radius = (self._words(half, device).double() + 0.5) / 2**32  # never 0
        angle = self._words(half, device).float() * (2 * math.pi / 2**32)
        radius = torch.sqrt(-2.0 * torch.log(radius)).float()
        # Interleave the pairs, so that a shorter draw is a prefix of a longer one.
        pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=2)
        return pairs.flatten(1)[:, :count]

    def _words(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw the next `count` 32-bit words from each stream: int64 `[B, count]`, on `device`."""
        self._draws += 1
        # Fold on the CPU: copying a single number to the device would make the host wait.
        keys = _fold(self._keys, self._draws)[:, None].to(device, non_blocking=True)
        counter = torch.arange(count, dtype=torch.int64, device=keys.device)
        return _mix(_mix(counter + (keys & 0x7FFFFFFF)) ^ (keys >> 31))
