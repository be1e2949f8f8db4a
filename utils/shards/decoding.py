"""The files of one sample in a shard, to what models take."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from model.audio_input import (
    AUDIO_SUFFIXES,
    CONVERT_AUDIO,
    UNDECODED_AUDIO_SUFFIXES,
    Waveform,
    read_audio,
)
from model.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from utils.datasets.cells import is_empty, whole
from utils.datasets.frames import Frames
from utils.shards.reading import Content

_NUMBERED = re.compile(r"([0-9]+)\.[^.]+")


class About(NamedTuple):
    """What a sample's `json` says of it, and its `txt` and `cls` in sets of others.

    Attributes:
        name: what it is called; None: not said.
        labels: names of its classes.
        text: that describes it, of several the first; None: there is none.
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


def refuse_undecoded(content: Content) -> None:
    """Raise a ValueError if a sample has sounds or pictures, and none that is decoded."""
    if sound(content) or pictures(content):
        return
    for kinds, advice in (
        (UNDECODED_AUDIO_SUFFIXES, CONVERT_AUDIO),
        (UNDECODED_IMAGE_SUFFIXES, CONVERT_IMAGE),
    ):
        if found := _of_kind(content, kinds):
            raise ValueError(f"its {found[0]} is not decoded; {advice}")


def about(content: Content, class_names: list[str]) -> About:
    """Read what is said of a sample.

    Args:
        content: of the sample.
        class_names: of which a `cls` is the number.

    Raises:
        ValueError: it is not text, or not of the kind that is expected.
    """
    said = _said(content)
    if "labels" in said or "label" in said:
        labels = _labels(said)
    else:
        labels = [_class_name(_text_of(content, "cls"), class_names)] if "cls" in content else []
    texts = _texts(said) if "text" in said or "txt" not in content else [_text_of(content, "txt")]
    name = said.get("clip")
    if not isinstance(name, str):
        if not is_empty(name):
            raise ValueError("the text and the name of its json have to be texts")
        name = None
    return About(name, labels, texts[0] if texts and texts[0] else None)


def fold(content: Content) -> int | None:
    """Read which fold a sample is in; None: not said."""
    found = _said(content).get("fold")
    return found if type(found) is int else None


def sound(content: Content) -> str | None:
    """The suffix of the sound of a sample: of several the shortest, then the first; None: it has none."""
    return min(
        _of_kind(content, AUDIO_SUFFIXES), key=lambda suffix: (suffix.count("."), suffix), default=None
    )


def pictures(content: Content) -> list[str]:
    """The suffixes of the pictures of a sample: those with a number, `0.jpg`, `1.jpg` ..., in their order.

    Where none has a number it is the first one alone: others are something else, such as masks.
    """
    found = _of_kind(content, IMAGE_SUFFIXES)
    numbers = {suffix: int(match[1]) for suffix in found if (match := _NUMBERED.fullmatch(suffix))}
    return sorted(numbers, key=lambda suffix: numbers[suffix]) or found[:1]


def passed_over(content: Content) -> list[str]:
    """List what is not read of a sample: suffixes of files, and texts beyond the first."""
    read = {sound(content), *pictures(content), "json", "txt", "cls"}
    beyond = ["texts beyond the first of a sample"] * (len(_texts(_said(content))) > 1)
    return sorted(suffixes(content) - read) + beyond


def audio(content: Content, sample_rate: int, mono: bool | None) -> Waveform | None:
    """Decode the sound of a sample as `model.audio_input.read_audio` does; None: it has none."""
    suffix = sound(content)
    if suffix is None:
        return None
    return read_audio(io.BytesIO(content[suffix]), sample_rate, mono=mono, name=f"its {suffix}")


def frames(content: Content, *, place: str = "") -> Frames | None:
    """The pictures of a sample, not decoded; None: there is none.

    What is said of one that does not decode begins with `place`.
    """
    chosen = pictures(content)
    if not chosen:
        return None
    return Frames(
        tuple(content[suffix] for suffix in chosen), tuple(f"{place}its {suffix}" for suffix in chosen)
    )


def _class_name(text: str, class_names: list[str]) -> str:
    if not text.isdecimal():
        raise ValueError(f"its cls is {text[:80]!r}; the number of a class is expected")
    if int(text) >= len(class_names):
        raise ValueError(f"its cls is {text}, and the set has {len(class_names)} names of classes")
    return class_names[int(text)]


def _labels(said: Mapping[str, Any]) -> list[str]:
    """Return the labels of a JSON file: `labels` is a list, `label` one or a list; numbers become text."""
    given = said["labels"] if "labels" in said else said["label"]
    several = given if isinstance(given, list) or "labels" in said else [given]
    there = [] if is_empty(several) else several
    if not isinstance(there, list) or not all(
        is_empty(one) or isinstance(one, str | int | float) for one in there
    ):
        raise ValueError(f"its labels are {given!r}; a list of texts is expected")
    return [one if isinstance(one, str) else whole(str(one)) for one in there if not is_empty(one)]


def _texts(said: Mapping[str, Any]) -> list[str]:
    """Return the texts of a JSON file: one, or a list of captions as in the shards of LAION-CLAP."""
    given = said.get("text")
    several: list[Any] = given if isinstance(given, list) else [given]
    texts = [text for text in several if not is_empty(text)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the text and the name of its json have to be texts")
    return texts


def _text_of(content: Content, suffix: str) -> str:
    """Decode a text file, without the byte order mark that Windows writes."""
    try:
        text: str = content[suffix].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its {suffix} is not UTF-8: {error}") from error
    return text


def _said(content: Content) -> Mapping[str, Any]:
    try:
        said: Any = json.loads(content["json"]) if "json" in content else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json is not JSON: {error}") from error
    if not isinstance(said, Mapping):
        raise ValueError(f"its json is a {type(said).__name__}; an object is expected")
    return said


def _of_kind(content: Content, kinds: frozenset[str]) -> list[str]:
    """The suffixes of one of these kinds, sorted; of `0.jpg` the kind is jpg."""
    return sorted(suffix for suffix in suffixes(content) if f".{suffix.rpartition('.')[2]}" in kinds)
