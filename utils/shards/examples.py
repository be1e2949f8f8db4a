"""Samples of a shard that stand for all of it when labels and texts are checked before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Example(BaseModel):
    """What a sample has, as the manifest says it.

    Attributes:
        position: of the sample in its shard, from 0.
        labels: names of its classes.
        text: that describes it; None: there is none.
        sound: whether it has one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    position: Annotated[int, Field(ge=0)]
    labels: list[str] = []
    text: str | None = None
    sound: bool = False


def choose_examples(samples: Sequence[Example]) -> list[Example]:
    """Choose those by which tasks find out whether they can take all samples.

    They are the first without a label, with several, and without a sound, and those with the longest text and
    the longest labels, in characters.
    """
    firsts = [
        next((one for one in samples if not one.labels), None),
        next((one for one in samples if len(one.labels) > 1), None),
        next((one for one in samples if not one.sound), None),
    ]
    longest = [
        max(samples, key=lambda one: len(one.text or "")),
        max(samples, key=lambda one: sum(map(len, one.labels))),
    ]
    chosen = {one.position: one for one in [*firsts, *longest] if one is not None}
    return [chosen[position] for position in sorted(chosen)]
