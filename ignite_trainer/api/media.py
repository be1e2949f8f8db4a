"""Pictures and sounds of samples and models, for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture or a recording, as the content of a file.

    Attributes:
        what: alternative text.
        media_type: media type, such as "image/png"; for recordings, its first part is the HTML element.
        content: content of the file.
        explanation: how to read it, in a few sentences of plain text; may be "".
    """

    what: str
    media_type: str
    content: bytes
    explanation: str = ""

    def __post_init__(self) -> None:
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ValueError(f'media_type is "{self.media_type}"; such as "image/png" is expected.')

    @property
    def kind(self) -> str:
        """The part of the media type before the `/`."""
        return self.media_type.partition("/")[0]

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture."""
        return self.kind == "image"

    @property
    def suffix(self) -> str:
        """File suffix, with the dot."""
        return "." + self.media_type.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A sample for people: its identity, and its pictures and recordings."""

    record: Mapping[str, str | int]
    exhibits: Sequence[Exhibit]


class Gallery:
    """Pictures and recordings of a run, made on demand. The base class has none."""

    def model(self) -> Sequence[Exhibit]:
        """Show the model as it is now."""
        return ()

    def held_out(self, positions: Sequence[int]) -> Sequence[Portrait]:
        """Show samples of the held-out split as an evaluation sees them, if they can be shown."""
        del positions
        return ()

    def augmented(self, count: int) -> Sequence[tuple[Portrait, Portrait]]:
        """Show the first samples of the training split, before and after augmentation."""
        del count
        return ()
