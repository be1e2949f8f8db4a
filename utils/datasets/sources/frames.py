"""The pictures of one sample, of which a transform chooses one: each is decoded when it is asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass

from torch import Tensor

from ignite_trainer.support.errors import SampleUnreadable
from model.clip.image_input import read_pixels


@dataclass(frozen=True)
class Frames:
    """Pictures in their order, such as the frames of a video.

        frames[0]                  the first, decoded: uint8 [3, H, W]
        frames[frames.central]     the one in the middle
        len(frames)

    Not a `Sequence`: what sends batches to a device goes through such, and would decode all of them.

    Args:
        sources: paths of files, or their contents; at least one.
        names: what to call contents in messages; () where all are paths.

    Raises:
        ValueError: there is no source, or not as many names as sources.
    """

    sources: tuple[str | bytes, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("Frames has no sources; a sample without pictures has None instead.")
        if self.names and len(self.names) != len(self.sources):
            raise ValueError(f"Frames has {len(self.sources)} sources and {len(self.names)} names.")

    @property
    def central(self) -> int:
        """Position of the one in the middle, of an even number the later one of two."""
        return len(self.sources) // 2

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> Tensor:
        """Decode one, turned upright: uint8 `[3, H, W]`.

        Raises:
            IndexError: there are fewer.
            SampleUnreadable: its file is not there, or does not decode.
        """
        source = self.sources[position]
        name = self.names[position] if self.names else None
        try:
            return read_pixels(io.BytesIO(source) if isinstance(source, bytes) else source, name=name)
        except (OSError, ValueError) as error:
            raise SampleUnreadable(str(error)) from error
