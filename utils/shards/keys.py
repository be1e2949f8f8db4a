"""Grouping of a shard's files into samples; a file name is its sample's key, a dot and a suffix.

Keys and suffixes may contain dots. The webdataset library ends a key at its first dot, which makes
`blues.00000.wav` and `blues.00001.wav` two sounds of one sample. Here a key ends at its last dot, or earlier
if other files of the sample show that it does:

    blues.00000.wav, blues.00000.png      key blues.00000    suffixes wav, png
    clip.flac, clip.0.jpg, clip.1.jpg     key clip           suffixes flac, 0.jpg, 1.jpg (numbered images)
    blues.00000.jpg, blues.00001.jpg      two samples, if no sample of the shard has numbered images
    clip.jpg, clip.mask.png               key clip           suffixes jpg, mask.png
    clip.audio.wav, clip.meta.json        key clip           suffixes audio.wav, meta.json
    clip.tokens.npy, clip.mean.npy        key clip           suffixes tokens.npy, mean.npy (unknown kinds)
"""

from __future__ import annotations

import os.path
import re
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from model.audio_input import AUDIO_SUFFIXES
from model.clip.image_input import IMAGE_SUFFIXES

DESCRIBING = frozenset({".json", ".txt", ".cls"})
"""Suffixes of files that describe a sample."""

_META = re.compile(r"__[^/]*__($|/)")  # member names that webdataset skips
_SOUND_WORDS = frozenset({"audio", "sound"})
_DESCRIBING_WORDS = ("meta", "metadata", "label", "labels", "text", "caption")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NUMBER = re.compile(r"[0-9]+")


class _Name(NamedTuple):
    kind: str
    """Last suffix in lower case, with its dot."""
    keys: list[str]
    """Possible keys, shortest first; the last key is the name without its last suffix."""
    is_numbered: bool
    """Return whether a number precedes the suffix, perhaps that of an image."""


def is_of_a_sample(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a file with a suffix, neither hidden nor webdataset's own."""
    name = member.name.rpartition("/")[2]
    return member.isreg() and "." in name[1:] and name[0] != "." and not _META.match(member.name)


def sample_keys(names: Sequence[str]) -> list[str]:
    """Return the key of each file, given the names of all files in a shard or a sample."""
    files = [_parsed(name) for name in names]
    sounds = [file.kind in AUDIO_SUFFIXES for file in files]
    # Keys of files of a known kind are certain.
    known = AUDIO_SUFFIXES | IMAGE_SUFFIXES | DESCRIBING
    plain = {file.keys[-1] for file in files if file.kind in known and not file.is_numbered}
    sounding = {file.keys[-1] for file, is_sound in zip(files, sounds, strict=True) if is_sound}
    # A sound is its own sample, unless a shorter key has files but no sound: clip.json, clip.left.wav.
    of_sound = {
        file.keys[-1]: next((key for key in file.keys[:-1] if key in plain - sounding), file.keys[-1])
        for file, is_sound in zip(files, sounds, strict=True)
        if is_sound
    }
    with_sound = set(of_sound.values())
    found = list[str | None]()
    for file, is_sound in zip(files, sounds, strict=True):
        likeliest = [
            *(key for key in reversed(file.keys) if key in with_sound),
            *(key for key in file.keys if key in plain),
        ]
        found.append(of_sound[file.keys[-1]] if is_sound else next(iter(likeliest), None))
    # A number before the suffix belongs to the key, unless another sample shows that numbers count images.
    counts = any(file.is_numbered and key in file.keys[:-1] for file, key in zip(files, found, strict=True))
    alone = [
        file.keys[0] if not file.is_numbered else file.keys[-2] if counts else file.keys[-1] for file in files
    ]
    return _joined(files, [key or own for key, own in zip(found, alone, strict=True)])


def key_of_sample(names: Sequence[str], expected: str) -> str:
    """Return the key that all files of a sample share.

    The name that the manifest expects is the key, unless a file of the sample contains another name.
    """
    if all(name.startswith(f"{expected}.") for name in names):
        return expected
    keys = set(sample_keys(names))
    if len(keys) == 1:
        return keys.pop()
    # Keys of older manifests end at the first dot.
    return ".".join(os.path.commonprefix([name.split(".")[:-1] for name in names]))


def _joined(files: Sequence[_Name], keys: list[str]) -> list[str]:
    """Assign a sound and its description one key if their names match: clip.audio.wav, clip.meta.json."""
    kinds = defaultdict[str, set[str]](set)
    for file, key in zip(files, keys, strict=True):
        kinds[key].add(file.kind)
    joined: dict[str, str] = {}
    for key in kinds:
        stem, _, word = key.rpartition(".")
        if word in _SOUND_WORDS and stem not in kinds and kinds[key] <= AUDIO_SUFFIXES:
            for other in (f"{stem}.{describing}" for describing in _DESCRIBING_WORDS):
                if other in kinds and kinds[other] <= DESCRIBING:
                    joined |= {key: stem, other: stem}
    return [joined.get(key, key) for key in keys]


def _parsed(name: str) -> _Name:
    key, _, suffix = name.rpartition(".")
    kind, keys, is_numbered = f".{suffix.lower()}", [key], False
    while True:
        rest, dot, piece = key.rpartition(".")
        number = len(keys) == 1 and kind in IMAGE_SUFFIXES and _NUMBER.fullmatch(piece)
        if not dot or "/" in piece or rest.endswith("/") or not (number or _WORD.fullmatch(piece)):
            return _Name(kind, keys[::-1], is_numbered)
        is_numbered |= bool(number)
        keys.append(key := rest)
