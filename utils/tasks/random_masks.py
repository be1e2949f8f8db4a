"""Random time and frequency masks for spectrograms of training clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ignite_trainer.api.randomness import SampleRandom
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt, SpectrogramMasks


@dataclass(frozen=True, kw_only=True)
class RandomMasks:
    """Number and maximum width of masks; SpecAugment (arXiv 1904.08779, section 2) without time warping.

    A mask's width is uniform in [0, maximum], and its start is uniform over the positions where it fits.

    Attributes:
        time: number of time masks.
        max_time: maximum width of a time mask, as a share of the clip's duration, 0..1.
        frequency: number of frequency masks.
        max_frequency: maximum width of a frequency mask, as a share of the spectrogram's height, 0..1.
    """

    time: int = 0
    max_time: float = 0.1
    frequency: int = 0
    max_frequency: float = 0.1

    @classmethod
    def of(cls, given: Any) -> RandomMasks | None:
        """Read the argument `spectrogram_masks` of a task; None means no masks.

        Raises:
            ValueError: A key or a value is not allowed, or there is no mask.
        """
        if given is None:
            return None
        allowed = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping) or set(given) - set(allowed):
            raise ValueError(f"spectrogram_masks is {given!r}; allowed are the keys {', '.join(allowed)}.")
        for name, value in given.items():
            if name.startswith("max_"):
                valid, expected = type(value) in (int, float) and 0.0 < value <= 1.0, "above 0 and at most 1"
            else:
                valid, expected = type(value) is int and value >= 0, "a whole number, 0 or more"
            if not valid:
                raise ValueError(f"spectrogram_masks.{name} is {value!r}; it must be {expected}.")
        masks = cls(**given)
        if not masks.time and not masks.frequency:
            raise ValueError(
                'spectrogram_masks contains no mask; set "time" or "frequency" to the number of masks, or '
                "spectrogram_masks to null."
            )
        return masks

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if the model's spectrogram cannot be masked."""
        if not isinstance(model, AudioCLIP | ESResNeXt):
            raise ValueError(
                f"Task.args.spectrogram_masks needs an AudioCLIP or ESResNeXt model; Model.class is "
                f"{type(model).__name__}. Set spectrogram_masks to null."
            )

    def draw(self, random: SampleRandom, *, device: torch.device) -> SpectrogramMasks:
        """Draw masks for the B samples of `random`.

        Time and frequency have separate streams, so the number of time masks does not affect the others.
        """
        return SpectrogramMasks(
            time=_ranges(random.stream(0), self.time, self.max_time).to(device, non_blocking=True),
            frequency=_ranges(random.stream(1), self.frequency, self.max_frequency).to(
                device, non_blocking=True
            ),
        )


def _ranges(random: SampleRandom, count: int, widest: float) -> Tensor:
    """Draw `count` ranges within 0..1 for each of B samples: float32 `[B, count, 2]`, on the CPU."""
    ranges = torch.empty(len(random), count, 2)
    for number in range(count):
        width = random.uniform(0.0, widest)
        start = random.uniform() * (1.0 - width)
        ranges[:, number] = torch.stack((start, start + width), dim=1).float()
    return ranges
