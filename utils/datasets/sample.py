"""What a data set consists of: clips as its table lists them, samples as it gives them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Clip(NamedTuple):
    """One clip of a data set's table.

    Attributes:
        path: of the audio file, relative to the data set's root, with `/` on every system.
        fold: number of the fold it is in.
        target: number of its class in the table; not always contiguous (ESC-10 has 0, 1, 10, ..., 41).
        label: name of its class, as a reader would write it.
    """

    path: str
    fold: int
    target: int
    label: str


class Sample(NamedTuple):
    """One sample as models take it: `(audio, image, labels)`.

    Attributes:
        audio: float32 numpy `[C, T]` in 16-bit units (about -32768..32767), or what `transform_audio` makes
            of it.
        image: uint8 tensor `[3, H, W]`, or `sources.frames.Frames`; None in a data set of sounds.
        labels: the clip's labels, `list[str]`, or what `target_transform` makes of it.
    """

    audio: Any
    image: Any
    labels: Any


class DescribedSample(NamedTuple):
    """A sample that has a text besides its labels; `sample[:3]` are the fields of a `Sample`.

    Attributes:
        audio, image, labels: as those of `Sample`, None where it lacks them.
        text: that describes it, such as a caption; None: there is none.
    """

    audio: Any
    image: Any
    labels: Any
    text: Any


class Listing(NamedTuple):
    """Facts about a sample that a data set knows without reading it.

    A data set has a method `listing(index)` that gives these, so that tasks can check all samples before a
    run; or `listings()`, which gives those of some samples that stand for all.

    Attributes:
        place: where it is listed, such as "own.csv, line 3: dog.wav".
        labels: names of its classes.
        text: that describes it; None: there is none.
        audio: whether it has a sound.
    """

    place: str
    labels: Sequence[str] = ()
    text: str | None = None
    audio: bool = True


class SampleFiles(NamedTuple):
    """The files that a sample is decoded from, and what is said of it, for those who copy instead of decode.

    A data set has a method `files(index)` that gives these, or None where a sample is more than what
    `model.audio_input` and `model.clip.image_input` make of its files.

    Attributes:
        audio: the file of its sound; None: it has none.
        images: those of its pictures.
        labels: names of its classes.
        text: that describes it; None: there is none.
    """

    audio: Path | None
    images: tuple[Path, ...] = ()
    labels: Sequence[str] = ()
    text: str | None = None
