"""Small data set of synthetic scenes with audio, image, labels and captions, generated on first access.

```text
labels   "siren", "rain"            one to `most_labels` of six classes
audio    a mix of their sounds      see `utils.datasets.made_sounds`
image    a shape for each label     the class decides form and colour; random place, noisy background
captions "the sound of rain and siren"   one or several phrasings of the labels, if there are any captions
```

Results on it say nothing about real data.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from utils.datasets.made_sounds import FILE_RATE, SOUNDS, Signal, at_random_peak, rms
from utils.datasets.sample import DescribedSample, Sample, text_of

VERSION = 1
"""Increase it whenever a scene changes."""

_LARGEST = 100_000  # scenes
_PHRASES = ("{}", "the sound of {}", "{} can be heard", "a recording of {}", "{} nearby")


class MadeScenes(Dataset[Sample | DescribedSample]):
    """Synthetic scenes with one or several labels; equal arguments give equal scenes.

    A scene depends on its index, not on the number of scenes. Scenes are kept in memory.

    Args:
        train: split to use: True for the training scenes, False for the held-out scenes.
        scenes: number of training scenes.
        held_out_scenes: number of held-out scenes, which are all complete.
        most_labels: maximum number of labels, 1 to 6; the scenes cycle through all sets of labels up to this
            size.
        incomplete: fraction of the training scenes that lack the sound or the image, 0..1.
        seconds: length of the sounds, in seconds.
        image_size: height and width of the images, in pixels.
        captions: number of captions for each scene, 0 to 5.
        seed: random seed.

    Raises:
        ValueError: An argument is out of range.
    """

    results_name = "MadeScenes"
    sample_rate = FILE_RATE

    def __init__(
        self,
        *,
        train: bool = True,
        scenes: int = 336,
        held_out_scenes: int = 84,
        most_labels: int = 2,
        incomplete: float = 0.1,
        seconds: float = 1.0,
        image_size: int = 64,
        captions: int = 0,
        seed: int = 0,
    ) -> None:
        for name, number, least, most in (
            ("scenes", scenes, 1, _LARGEST),
            ("held_out_scenes", held_out_scenes, 1, _LARGEST),
            ("most_labels", most_labels, 1, len(SOUNDS)),
            ("incomplete", incomplete, 0, 1),
            ("seconds", seconds, 0.1, 60),
            ("image_size", image_size, 16, 1024),
            ("captions", captions, 0, len(_PHRASES)),
            ("seed", seed, 0, 2**31),
        ):
            whole = type(number) is int or name in ("incomplete", "seconds")
            if not whole or isinstance(number, bool) or not least <= number <= most:
                kind = "a number" if name in ("incomplete", "seconds") else "an integer"
                raise ValueError(f"{name} is {number!r}; {kind} from {least} to {most} is expected.")
        self.class_names = [category.replace("_", " ") for category, _ in SOUNDS]
        self._count = scenes if train else held_out_scenes
        self._train, self._seed, self._seconds, self._size = train, seed, seconds, image_size
        self._incomplete = incomplete if train else 0.0
        self._sets = [
            chosen
            for size in range(1, most_labels + 1)
            for chosen in itertools.combinations(range(len(SOUNDS)), size)
        ]
        self._captions = captions
        self.described = captions > 0
        made_from = [VERSION, train, self._count, most_labels, self._incomplete, seconds, image_size, seed]
        made_from += [captions] * self.described
        self.digest = hashlib.sha256(repr(made_from).encode()).hexdigest()
        self._made: dict[int, tuple[NDArray[np.int16] | None, Tensor | None]] = {}

    def record(self, index: int) -> dict[str, str | int]:
        """Return the name of scene `index`, for predictions and features."""
        return {"clip": f"{'training' if self._train else 'held-out'} scene {index}"}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample | DescribedSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene index {index} is out of range for {len(self)} scenes")
        index %= len(self)
        classes = self._sets[index % len(self._sets)]
        if index not in self._made:
            self._made[index] = self._make(index, classes)
        sound, picture = self._made[index]
        audio = None if sound is None else sound.astype(np.float32)[None]
        labels = [self.class_names[number] for number in classes]
        if not self.described:
            return Sample(audio, picture, labels)
        # Every other caption has the labels in reverse order.
        orders = [" and ".join(order) for order in (labels, labels[::-1])]
        captions = [phrase.format(orders[at % 2]) for at, phrase in enumerate(_PHRASES[: self._captions])]
        return DescribedSample(audio, picture, labels, text_of(captions))

    def _make(self, index: int, classes: tuple[int, ...]) -> tuple[NDArray[np.int16] | None, Tensor | None]:
        random = np.random.default_rng([self._seed, int(self._train), index])
        lacks, which = random.random(2)
        sound = _mix(classes, np.random.default_rng([self._seed, int(self._train), index, 1]), self._seconds)
        picture = _draw(classes, np.random.default_rng([self._seed, int(self._train), index, 2]), self._size)
        if lacks >= self._incomplete:
            return sound, picture
        return (None, picture) if which < 0.5 else (sound, None)


def _mix(classes: tuple[int, ...], random: np.random.Generator, seconds: float) -> NDArray[np.int16]:
    """Mix sounds within 3 dB of each other with some noise, to a peak of -18 to -3 dBFS; return `[T]`."""
    t = np.arange(round(seconds * FILE_RATE)) / FILE_RATE
    mixed: Signal = 0.03 * random.standard_normal(len(t))
    for number in classes:
        sound = SOUNDS[number][1](random, t)
        level_db = random.uniform(-1.5, 1.5)
        mixed = mixed + sound / rms(sound) * 10 ** (level_db / 20)
    return at_random_peak(mixed, random)


def _draw(classes: tuple[int, ...], random: np.random.Generator, size: int) -> Tensor:
    """Draw shapes that are a sixth to a third of the width; return uint8 `[3, size, size]`."""
    ground = random.integers(60, 196)
    image = Image.new("RGB", (size, size), (int(ground),) * 3)
    brush = ImageDraw.Draw(image)
    places = random.permutation(4)  # quadrants; a fifth or sixth shape overlaps an earlier one
    for order, number in enumerate(classes):
        radius = size * random.uniform(1 / 12, 1 / 6)
        row, column = divmod(int(places[order % 4]), 2)
        room = size / 4 - radius
        x = size * (0.25 + 0.5 * column) + random.uniform(-room, room)
        y = size * (0.25 + 0.5 * row) + random.uniform(-room, room)
        sides, colour = _SHAPES[number]
        shade = tuple(int(np.clip(part + random.integers(-20, 21), 0, 255)) for part in colour)
        if sides == 0:
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)
        else:
            brush.regular_polygon((x, y, radius), sides, rotation=int(random.integers(360)), fill=shade)
    noise = random.normal(0, 6, (size, size, 3))
    pixels: NDArray[Any] = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


_SHAPES: tuple[tuple[int, tuple[int, int, int]], ...] = (
    (0, (220, 40, 40)),
    (0, (40, 80, 220)),
    (3, (230, 210, 40)),
    (3, (40, 190, 70)),
    (4, (40, 40, 40)),
    (4, (200, 60, 200)),
)
"""Number of corners (0: a circle) and colour of each class, in the order of `SOUNDS`."""
