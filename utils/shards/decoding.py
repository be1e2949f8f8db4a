"""Decoding of a sample's files in a shard."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from model.audio_input import AUDIO_SUFFIXES, CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES, Waveform, read_audio
from model.clip.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from utils.datasets.sources.cells import is_empty, whole
from utils.datasets.sources.frames import Frames
from utils.shards.manifest import Example, ShardEntry, Summary, choose_examples
from utils.shards.reading import Content

_TEXTS = ("text", "caption", "captions")
"""Keys of the text or texts in a json, including img2dataset's; the first key that is present counts."""
_NOT_READ = frozenset({"tag", "tags", "category", "class", "classes", "description", "sentence"})
"""Keys that a table would know, counted as not read."""
_NUMBERED = re.compile(r"([0-9]+)\.[^.]+")


class About(NamedTuple):
    """The description of a sample: from its `json`, or from `txt` and `cls` in shards made elsewhere."""

    name: str | None
    labels: list[str]
    captions: list[str]


def suffixes(content: Content) -> set[str]:
    """Return the suffixes of a sample's files, such as "flac" and "json"."""
    return {suffix for suffix in content if not suffix.startswith("__")}


def require(content: Content, expected: Collection[str]) -> None:
    """Raise ValueError if a sample lacks files that every sample in the set has."""
    if missing := sorted(set(expected) - content.keys()):
        raise ValueError(f"it has no {' and no '.join(missing)}, as all samples of the set have")


def refuse_undecoded(content: Content) -> None:
    """Raise ValueError if all sounds or all images of a sample are in unsupported formats."""
    if sound(content) or pictures(content):
        return
    unsupported = {CONVERT_AUDIO: UNDECODED_AUDIO_SUFFIXES, CONVERT_IMAGE: UNDECODED_IMAGE_SUFFIXES}
    for advice, kinds in unsupported.items():
        if matches := _of_kind(content, kinds):
            raise ValueError(f"its {matches[0]} is not decoded; {advice}")


def about(content: Content, class_names: list[str]) -> About:
    """Read the description of a sample; `class_names` are in the order of the numbers in `cls`.

    Raises:
        ValueError: The description is not text, or has the wrong type.
    """
    description = _json(content)
    if "labels" in description or "label" in description:
        labels = _labels(description)
    else:
        number = _text_of(content, "cls")
        labels = [] if number is None else [_class_name(number, class_names)]
    captions = _texts(description) or [text for text in (_text_of(content, "txt"),) if text]
    name = description.get("clip")
    if not isinstance(name, str):
        if not is_empty(name):
            raise ValueError("text and clip in its json must be texts")
        name = None
    return About(name, labels, captions)


def sound(content: Content) -> str | None:
    """Return the suffix of a sample's sound, or None; if there are several sounds, the shortest suffix."""
    return min(_of_kind(content, AUDIO_SUFFIXES), key=lambda suffix: suffix.count("."), default=None)


def pictures(content: Content) -> list[str]:
    """Return the suffixes of a sample's numbered images, `0.jpg`, `1.jpg` ..., in order.

    If no image has a number, only the first one is used: the others are something else, such as masks.
    """
    matches = _of_kind(content, IMAGE_SUFFIXES)
    numbers = {suffix: int(match[1]) for suffix in matches if (match := _NUMBERED.fullmatch(suffix))}
    return sorted(numbers, key=lambda suffix: numbers[suffix]) or matches[:1]


def unread(content: Content) -> list[str]:
    """List the ignored parts of a sample: files by suffix, and entries of its json."""
    description = _json(content)
    described = {_describing(content, kind) for kind in ("json", "txt", "cls")}
    read = {sound(content), *pictures(content), *described}
    entries = [f"{name} of json" for name in sorted(_NOT_READ & description.keys()) if description[name]]
    return sorted(suffixes(content) - read) + entries


def audio(content: Content, sample_rate: int, mono: bool | None) -> Waveform | None:
    """Decode the sound of a sample as `model.audio_input.read_audio` does; None without a sound."""
    suffix = sound(content)
    if suffix is None:
        return None
    return read_audio(io.BytesIO(content[suffix]), sample_rate, mono=mono, name=f"its {suffix}")


def frames(content: Content, *, place: str = "") -> Frames | None:
    """Return the undecoded images of a sample, or None; messages about the images begin with `place`."""
    chosen = pictures(content)
    if not chosen:
        return None
    return Frames(
        tuple(content[suffix] for suffix in chosen), tuple(f"{place}its {suffix}" for suffix in chosen)
    )


def summarise(contents: Sequence[Content], class_names: list[str] | None = None, **facts: Any) -> Summary:
    """Describe a shard; only the contents of descriptive files are needed.

    Args:
        contents: samples of the shard.
        class_names: class names, in the order of the numbers in `cls`.
        facts: other fields of the manifest entry; `fold` defaults to the fold that all samples name.
    """
    names, examples = list[str](), list[Example]()
    for position, content in enumerate(contents):
        try:
            name, labels, captions = about(content, class_names or [])
        except ValueError as error:
            raise ValueError(f"{content['__key__']}: {error}") from error
        names.append(name or content["__key__"])
        has_sound = sound(content) is not None
        longest = max(captions, key=len, default=None)
        examples.append(Example(position=position, labels=labels, text=longest, sound=has_sound))
    folds = [_json(content).get("fold") for content in contents]
    same = type(folds[0]) is int and folds.count(folds[0]) == len(folds)
    entry = ShardEntry.from_json(
        {
            "fold": folds[0] if same else None,
            **facts,
            "sounds": sum(example.sound for example in examples),
            "pictures": sum(len(pictures(content)) for content in contents),
            "labels": sorted({label for example in examples for label in example.labels}),
            "examples": choose_examples(examples),
            "names": names,
        }
    )
    common = sorted(set.intersection(*map(suffixes, contents)))
    return Summary(entry=entry, suffixes=common, texts=any(example.text is not None for example in examples))


def _class_name(text: str, class_names: list[str]) -> str:
    if not text.isdecimal():
        raise ValueError(f"its cls is {text[:80]!r}; the number of a class is expected")
    if int(text) >= len(class_names):
        raise ValueError(
            f"its cls is {text}, but the set has {len(class_names)} class names (pass them to the index with "
            "--classes)"
        )
    return class_names[int(text)]


def _labels(description: Mapping[str, Any]) -> list[str]:
    """Return `labels` or `label` of a json, a single value or a list; numbers become text."""
    given = description["labels"] if "labels" in description else description["label"]
    labels = [label for label in (given if isinstance(given, list) else [given]) if not is_empty(label)]
    if not all(isinstance(label, str | int | float) for label in labels):
        raise ValueError(f"its labels are {given!r}; a list of texts is expected")
    return [label if isinstance(label, str) else whole(str(label)) for label in labels]


def _texts(description: Mapping[str, Any]) -> list[str]:
    """Return the texts of a json: a single one, or a list of captions as in LAION-CLAP's shards."""
    for name in _TEXTS:
        given = description.get(name)
        several: list[Any] = given if isinstance(given, list) else [given]
        texts = [text for text in several if not is_empty(text) and text != ""]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("text and clip in its json must be texts")
        if texts:
            return texts
    return []


def _describing(content: Content, kind: str) -> str | None:
    """Find the suffix of a descriptive file: `json`, or `meta.json` if all suffixes have two parts."""
    if kind in content:
        return kind
    present = suffixes(content)
    matches = [suffix for suffix in present if suffix.endswith(f".{kind}")]
    return matches[0] if len(matches) == 1 and all("." in suffix for suffix in present) else None


def _text_of(content: Content, kind: str) -> str | None:
    """Decode the descriptive file of a kind, if present, without the byte order mark that Windows writes."""
    suffix = _describing(content, kind)
    try:
        return None if suffix is None else str(content[suffix], "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its {suffix} is not UTF-8: {error}") from error


def _json(content: Content) -> Mapping[str, Any]:
    suffix = _describing(content, "json")
    try:
        description: Any = {} if suffix is None else json.loads(content[suffix])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json is not JSON: {error}") from error
    if not isinstance(description, Mapping):
        raise ValueError(f"its json is a {type(description).__name__}; an object is expected")
    return description


def _of_kind(content: Content, kinds: frozenset[str]) -> list[str]:
    """Return the suffixes of these kinds, sorted; the kind of `0.jpg` is jpg."""
    return sorted(suffix for suffix in suffixes(content) if f".{suffix.rpartition('.')[2]}" in kinds)
