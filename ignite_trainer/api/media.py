"""Images and recordings of samples and models, for people to look at and listen to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """An image or a recording, as the content of a file.

    Attributes:
        what: alternative text.
        media_type: media type, such as "image/png"; for recordings, the part before the slash is also the
            name of the HTML element.
        content: content of the file.
        explanation: guide to reading the exhibit, a few sentences of plain text; may be "".
    """

    what: str
    media_type: str
    content: bytes
    explanation: str = ""

    def __post_init__(self) -> None:
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ValueError(f'media_type is "{self.media_type}"; write a type such as "image/png".')

    @property
    def kind(self) -> str:
        """The part of the media type before the slash."""
        return self.media_type.partition("/")[0]

    @property
    def is_picture(self) -> bool:
        """True if the exhibit is an image."""
        return self.kind == "image"

    @property
    def suffix(self) -> str:
        """File suffix, with the dot."""
        return "." + self.media_type.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """Identity, images and recordings of a sample."""

    record: Mapping[str, str | int]
    exhibits: Sequence[Exhibit]


class Gallery:
    """Images and recordings of a run, made on demand. The base class contains none."""

    def model(self) -> Sequence[Exhibit]:
        """Return images of the model in its current state."""
        return ()

    def held_out(self, positions: Sequence[int]) -> Sequence[Portrait]:
        """Return portraits of held-out samples at `positions`, transformed as for an evaluation."""
        del positions
        return ()

    def augmented(self, count: int) -> Sequence[tuple[Portrait, Portrait]]:
        """Return portraits of the first `count` training samples, before and after augmentation."""
        del count
        return ()
