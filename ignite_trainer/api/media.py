"""The contract between the trainer and research code: what people see, and play, of samples and models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture, or something that can be played, as a file would hold it.

    Attributes:
        what: what it shows, for those who cannot see it.
        media_type: such as "image/png"; of what can be played the kind is the name of its element in HTML.
        content: of the file.
        explanation: how to read it, in a few sentences of plain text; "": it needs none.
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
        """What comes before the `/`: what sort of thing it is."""
        return self.media_type.partition("/")[0]

    @property
    def is_picture(self) -> bool:
        """Whether it is looked at."""
        return self.kind == "image"

    @property
    def suffix(self) -> str:
        """File suffix, with the dot."""
        return "." + self.media_type.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A sample as people know it: what names it, and what is shown of it."""

    record: Mapping[str, str | int]
    exhibits: Sequence[Exhibit]


class Gallery:
    """What a run can show; each is made when it is asked for. This one has nothing."""

    def model(self) -> Sequence[Exhibit]:
        """Show the model as it is now."""
        return ()

    def held_out(self, positions: Sequence[int]) -> Sequence[Portrait]:
        """Show samples of the held-out split as an evaluation sees them; those that can be shown."""
        del positions
        return ()

    def augmented(self, count: int) -> Sequence[tuple[Portrait, Portrait]]:
        """Show the first samples of the training split, as they are and as the model is fed with them."""
        del count
        return ()
