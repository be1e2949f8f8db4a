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
from model.clip.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from utils.datasets.sources.cells import is_empty, whole
from utils.datasets.sources.frames import Frames
from utils.shards.reading import Content

_TEXTS = ("text", "caption", "captions")
"""Names of the text in a json, of img2dataset too; the first that is there counts."""
_NOT_READ = frozenset({"tag", "tags", "category", "class", "classes", "description", "sentence"})
"""Further names that a table would know, counted as not read."""
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
        number = _text_of(content, "cls")
        labels = [] if number is None else [_class_name(number, class_names)]
    texts = _texts(said)
    texts = texts or [_text_of(content, "txt") or ""]
    name = said.get("clip")
    if not isinstance(name, str):
        if not is_empty(name):
            raise ValueError("the text and the name of its json have to be texts")
        name = None
    return About(name, labels, texts[0] or None)


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
    """List what is not read of a sample: suffixes of files, texts beyond the first, entries of its json."""
    said = _said(content)
    described = {_describing(content, kind) for kind in ("json", "txt", "cls")}
    read = {sound(content), *pictures(content), *described}
    beyond = ["texts beyond the first of a sample"] * (len(_texts(said)) > 1)
    entries = [f"{name} of json" for name in sorted(_NOT_READ & said.keys()) if said[name]]
    return sorted(suffixes(content) - read) + beyond + entries


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
        raise ValueError(
            f"its cls is {text}, and the set has {len(class_names)} names of classes (name them to the index "
            "with --classes)"
        )
    return class_names[int(text)]


def _labels(said: Mapping[str, Any]) -> list[str]:
    """Return the labels of a JSON file: `labels` or `label`, one or a list; numbers become text."""
    given = said["labels"] if "labels" in said else said["label"]
    several = given if isinstance(given, list) else [given]
    there = [one for one in several if not is_empty(one)]
    if not all(isinstance(one, str | int | float) for one in there):
        raise ValueError(f"its labels are {given!r}; a list of texts is expected")
    return [one if isinstance(one, str) else whole(str(one)) for one in there]


def _texts(said: Mapping[str, Any]) -> list[str]:
    """Return the texts of a JSON file: one, or a list of captions as in the shards of LAION-CLAP."""
    given = next(
        (said[name] for name in _TEXTS if not is_empty(said.get(name)) and said[name] not in ("", [])), None
    )
    several: list[Any] = given if isinstance(given, list) else [given]
    texts = [text for text in several if not is_empty(text) and text != ""]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the text and the name of its json have to be texts")
    return texts


def _describing(content: Content, kind: str) -> str | None:
    """Find the suffix of the file that describes a sample: `json`, or `meta.json` if all have two parts."""
    if kind in content:
        return kind
    there = suffixes(content)
    found = [suffix for suffix in there if suffix.endswith(f".{kind}")]
    return found[0] if len(found) == 1 and all("." in suffix for suffix in there) else None


def _text_of(content: Content, kind: str) -> str | None:
    """Decode the text file of a kind, if there is one, without the byte order mark that Windows writes."""
    suffix = _describing(content, kind)
    if suffix is None:
        return None
    try:
        text: str = content[suffix].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its {suffix} is not UTF-8: {error}") from error
    return text


def _said(content: Content) -> Mapping[str, Any]:
    suffix = _describing(content, "json")
    try:
        said: Any = {} if suffix is None else json.loads(content[suffix])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json is not JSON: {error}") from error
    if not isinstance(said, Mapping):
        raise ValueError(f"its json is a {type(said).__name__}; an object is expected")
    return said


def _of_kind(content: Content, kinds: frozenset[str]) -> list[str]:
    """The suffixes of one of these kinds, sorted; of `0.jpg` the kind is jpg."""
    return sorted(suffix for suffix in suffixes(content) if f".{suffix.rpartition('.')[2]}" in kinds)
