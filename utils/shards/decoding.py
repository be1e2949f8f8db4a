"""The files of one sample in a shard, to what models take."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from model.audio_input import Waveform, read_audio
from model.image_input import read_pixels
from utils.shards.reading import Content

AUDIO = frozenset({"wav", "flac", "ogg", "opus", "mp3", "aiff", "aif"})
IMAGE = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})


class About(NamedTuple):
    """What a sample's `json` says of it, and its `txt` and `cls` in sets of others.

    Attributes:
        name: what it is called; None: not said.
        labels: names of its classes.
        text: that describes it; None: there is none.
    """

    name: str | None
    labels: list[str]
    text: str | None


def suffixes(content: Content) -> set[str]:
    """The suffixes of a sample's files, such as "flac" and "json"."""
    return {suffix for suffix in content if not suffix.startswith("__")}


def require(content: Content, expected: Collection[str]) -> None:
    """Raise a ValueError if files are missing that every sample of the set has."""
    missing = sorted(set(expected) - content.keys())
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}, as all samples of the set have")


def about(content: Content, class_names: list[str]) -> About:
    """Read what is said of a sample.

    Args:
        content: of the sample.
        class_names: of which a `cls` is the number.

    Raises:
        ValueError: it is not text, or not of the kind that is expected.
    """
    said = _said(content)
    labels = said.get("labels", [said["label"]] if "label" in said else None)
    if labels is None:
        labels = [_class_name(int(content["cls"]), class_names)] if "cls" in content else []
    text = said.get("text", content["txt"].decode().strip() if "txt" in content else None)
    name = said.get("clip")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {labels!r}; a list of texts is expected")
    if not isinstance(text, str | None) or not isinstance(name, str | None):
        raise ValueError("the text and the name of its json have to be texts")
    return About(name, labels, text)


def fold(content: Content) -> int | None:
    """Read which fold a sample is in; None: not said."""
    found = _said(content).get("fold")
    return found if type(found) is int else None


def audio(content: Content, sample_rate: int, mono: bool | None) -> Waveform | None:
    """Decode the sound of a sample as `model.audio_input.read_audio` does; None: it has none."""
    suffix = _first(content, AUDIO)
    if suffix is None:
        return None
    return read_audio(io.BytesIO(content[suffix]), sample_rate, mono=mono, name=f"its {suffix}")


def image(content: Content) -> Tensor | None:
    """Decode the picture of a sample: uint8 `[3, H, W]`; None: it has none."""
    suffix = _first(content, IMAGE)
    if suffix is None:
        return None
    return read_pixels(io.BytesIO(content[suffix]), name=f"its {suffix}")


def _class_name(number: int, class_names: list[str]) -> str:
    if not 0 <= number < len(class_names):
        raise ValueError(f"its cls is {number}, and the set has {len(class_names)} names of classes")
    return class_names[number]


def _said(content: Content) -> Mapping[str, Any]:
    said: Any = json.loads(content["json"]) if "json" in content else {}
    if not isinstance(said, Mapping):
        raise ValueError(f"its json is a {type(said).__name__}; an object is expected")
    return said


def _first(content: Content, kinds: frozenset[str]) -> str | None:
    """The first suffix of one of these kinds; of `0.jpg` the kind is jpg."""
    found = (suffix for suffix in sorted(suffixes(content)) if suffix.rpartition(".")[2] in kinds)
    return next(found, None)
