"""Lazily decoded images of a sample, from which a transform can choose."""

from __future__ import annotations

import io
from dataclasses import dataclass

from torch import Tensor

from ignite_trainer.support.errors import SampleUnreadable
from model.clip.image_input import read_pixels


@dataclass(frozen=True)
class Frames:
    """Ordered images, such as the frames of a video.

        frames[0]                  the first, decoded: uint8 [3, H, W]
        frames[frames.central]     the one in the middle
        len(frames)

    Not a `Sequence`: code that moves batches to a device iterates over sequences, and would decode all.

    Args:
        sources: paths of files, or contents of files; at least one.
        names: names of the contents, for messages; () for paths.

    Raises:
        ValueError: There are no sources, or the number of names differs.
    """

    sources: tuple[str | bytes, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("Frames has no sources; a sample without images has None instead.")
        if self.names and len(self.names) != len(self.sources):
            raise ValueError(f"Frames has {len(self.sources)} sources and {len(self.names)} names.")

    @property
    def central(self) -> int:
        """Index of the middle image, or of the later of two middle images."""
        return len(self.sources) // 2

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> Tensor:
        """Decode one image, turned upright: uint8 `[3, H, W]`.

        Raises:
            IndexError: There are fewer images.
            SampleUnreadable: The file is missing or cannot be decoded.
        """
        source = self.sources[position]
        name = self.names[position] if self.names else None
        try:
            return read_pixels(io.BytesIO(source) if isinstance(source, bytes) else source, name=name)
        except (OSError, ValueError) as error:
            raise SampleUnreadable(str(error)) from error
