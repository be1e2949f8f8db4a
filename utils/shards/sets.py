"""Which shards addresses mean, and what their manifests say of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from utils.shards.manifest import FILE_NAME, Manifest, SetEntry, ShardEntry
from utils.shards.reading import beside, expand, file_name, opened

_INDEX = "`python -m utils.shards index` makes one"
_SHOWN = 5


class ShardSet(NamedTuple):
    """Shards in the order of their addresses.

    Attributes:
        about: of all their sets together.
        shards: address and manifest entry of each.
        whole: whether they are all that their manifests name.
    """

    about: SetEntry
    shards: list[tuple[str, ShardEntry]]
    whole: bool


def find(urls: str | Sequence[str], manifest: str | Sequence[str] | None = None) -> ShardSet:
    """Find the shards that addresses mean.

    Args:
        urls: addresses of shards, patterns of these, or of manifests, which stand for all of their shards.
        manifest: addresses of the manifests that name the shards; None: those beside them.

    Raises:
        ValueError: an address or a manifest is wrong, or a shard is in no manifest.
        OSError: a manifest cannot be read.
    """
    addresses = expand(urls)
    given = [url for url in addresses if _is_manifest(url)]
    others = [url for url in addresses if not _is_manifest(url)]
    named = [*given, *(expand(manifest) if manifest is not None else _beside(others))]
    manifests = {url: _load(url) for url in dict.fromkeys(named)}
    shards: list[tuple[str, ShardEntry]] = []
    for url in given:
        shards += [(beside(url, entry.file) or entry.file, entry) for entry in manifests[url].shards]
    known: dict[str, ShardEntry] = {}
    for url, read in manifests.items():
        for entry in read.shards if url not in given or others else ():
            if known.setdefault(entry.file, entry).sha256 != entry.sha256:
                raise ValueError(f"manifest: {entry.file} is in two manifests, and not the same in both.")
    unknown = [url for url in others if file_name(url) not in known]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" * (len(unknown) > _SHOWN)
        raise ValueError(
            f"urls has shards that the manifest does not name: {', '.join(unknown[:_SHOWN])}{more}; {_INDEX}."
        )
    shards += [(url, known[file_name(url)]) for url in others]
    if len({url for url, _ in shards}) < len(shards):
        raise ValueError("urls names a shard twice, and every sample is to be read once.")
    whole = len(shards) == sum(len(read.shards) for read in manifests.values())
    return ShardSet(_merged([read.about for read in manifests.values()]), shards, whole)


def _is_manifest(url: str) -> bool:
    return file_name(url).endswith(".jsonl")


def _beside(shards: Iterable[str]) -> list[str]:
    found = [beside(url, FILE_NAME) for url in shards]
    if None in found:
        raise ValueError(
            "manifest is not given, and commands (pipe:) have no folder where it could be; name it."
        )
    return [url for url in dict.fromkeys(found) if url is not None]


def _load(url: str) -> Manifest:
    try:
        with opened(url, to_the_end=True) as file:
            return Manifest.parse(io.BytesIO(file.read()), source=url)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} is not there, the manifest of the shards; {_INDEX}.") from error


def _merged(sets: Sequence[SetEntry]) -> SetEntry:
    """One description of several sets: all names of classes, and what all their samples have."""
    first, *others = sets
    if not others:
        return first
    suffixes = set(first.suffixes).intersection(*(one.suffixes for one in others))
    return SetEntry(
        format=first.format,
        name=" and ".join(dict.fromkeys(one.name for one in sets)),
        class_names=list(dict.fromkeys(name for one in sets for name in one.class_names)),
        suffixes=sorted(suffixes),
        texts=any(one.texts for one in sets),
    )
