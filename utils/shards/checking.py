"""Shards read from end to end: to make the manifest of those without one, or to compare them with theirs."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from utils.datasets.shards import Shards
from utils.shards import decoding
from utils.shards.examples import Example, choose_examples
from utils.shards.keys import DESCRIBING, is_of_a_sample, sample_keys
from utils.shards.manifest import FORMAT, TAR_BLOCK, Manifest, SetEntry, ShardEntry
from utils.shards.parallel import in_processes
from utils.shards.reading import Content, expand, file_name, opened

_CHUNK = 1 << 20
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


class Indexed(NamedTuple):
    """A manifest that was made, and how many files of each suffix the samples have that are not read."""

    manifest: Manifest
    passed_over: dict[str, int]


class Verified(NamedTuple):
    """Faults of shards, a line each, and counts of their contents."""

    wrong: list[str]
    samples: int
    sounds: int
    pictures: int


class _Shard(NamedTuple):
    """Contents of one shard, found by reading it to its end.

    Attributes:
        contents: of the samples, without what is large.
        offsets: where each begins, and where the last one ends.
        sounds: samples with a sound.
        pictures: of all samples.
    """

    contents: list[Content]
    offsets: list[int]
    sounds: int
    pictures: int


class _Indexed(NamedTuple):
    entry: ShardEntry
    suffixes: set[str]
    texts: bool
    passed_over: Counter[str]


def index(
    urls: str | Sequence[str], *, name: str, class_names: Sequence[str] = (), processes: int = 1
) -> Indexed:
    """Make the manifest of shards that have none.

    Args:
        urls: addresses of the shards, or patterns.
        name: what results on the set may be called.
        class_names: all labels in their order, of which a `cls` is the number; empty: those found, sorted.
        processes: that read.

    Raises:
        ValueError: a shard is damaged, compressed or without a sample, or files of a sample lie apart.
        OSError: one cannot be read.
    """
    call = _Index(list(class_names))
    found = list(in_processes(call, expand(urls), processes=processes, title="Reading shards"))
    labels = sorted({label for one in found for label in one.entry.labels or ()})
    unknown = sorted(set(labels) - set(class_names)) if class_names else []
    if unknown:
        raise ValueError(f"samples have labels that are no class: {', '.join(unknown[:10])}.")
    about = SetEntry(
        format=FORMAT,
        name=name,
        class_names=list(class_names) or labels,
        suffixes=sorted(set.intersection(*(one.suffixes for one in found))),
        texts=any(one.texts for one in found),
        made_from={"urls": urls if isinstance(urls, str) else list(urls)},
    )
    passed_over = sum((one.passed_over for one in found), Counter[str]())
    manifest = Manifest(about=about, shards=tuple(one.entry for one in found))
    return Indexed(manifest, dict(passed_over.most_common()))


@dataclass(frozen=True)
class _Index:
    class_names: list[str]

    def __call__(self, url: str) -> _Indexed:
        try:
            with opened(url, to_the_end=True) as stream:
                return self._read(_Hashing(stream), file_name(url))
        except (ValueError, tarfile.TarError) as error:
            unpack = (
                " Shards are not compressed: unpack it, as by gunzip." if url.endswith(_COMPRESSED) else ""
            )
            raise ValueError(f"{url} cannot be indexed: {error}.{unpack}") from error

    def _read(self, stream: _Hashing, file: str) -> _Indexed:
        shard = _read_shard(stream)
        contents = shard.contents
        said = [self._about(content) for content in contents]
        samples = [
            Example(
                position=position,
                labels=one.labels,
                text=one.text,
                sound=decoding.sound(content) is not None,
            )
            for position, (one, content) in enumerate(zip(said, contents, strict=True))
        ]
        return _Indexed(
            ShardEntry.of(
                file=file,
                size_bytes=stream.count,
                sha256=stream.digest.hexdigest(),
                fold=_only({decoding.fold(content) for content in contents}),
                split=None,
                sounds=shard.sounds,
                pictures=shard.pictures,
                labels=sorted({label for one in said for label in one.labels}),
                examples=choose_examples(samples),
                offsets=shard.offsets,
                names=[one.name or content["__key__"] for one, content in zip(said, contents, strict=True)],
            ),
            set.intersection(*map(decoding.suffixes, contents)),
            any(one.text is not None for one in said),
            Counter(suffix for content in contents for suffix in decoding.passed_over(content)),
        )

    def _about(self, content: Content) -> decoding.About:
        try:
            return decoding.about(content, self.class_names)
        except ValueError as error:
            raise ValueError(f"{content['__key__']}: {error}") from error


def _read_shard(stream: _Hashing) -> _Shard:
    """Read a shard to its end.

    Raises:
        ValueError, tarfile.TarError: it is damaged, or no shard.
    """
    names, offsets, files, end = list[str](), list[int](), list[bytes](), 0
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as tar:
        for member in tar:
            if is_of_a_sample(member):
                describes = PurePosixPath(member.name).suffix.lower() in DESCRIBING
                file = tar.extractfile(member) if describes else None
                names.append(member.name)
                offsets.append(member.offset)
                files.append(file.read() if file else b"")
                end = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
            tar.members = []  # type: ignore[attr-defined]  # else it keeps one for every file
        while rest := tar.fileobj.read(_CHUNK):
            if any(rest):
                count = len(set(sample_keys(names)))
                raise ValueError(f"it is damaged after {count} samples, at byte {tar.offset:,} or before")
    keys = sample_keys(names)
    if stream.count < end + TAR_BLOCK:  # a tar file ends with empty blocks
        raise ValueError(f"it is cut short after {len(set(keys))} samples")
    if not keys:
        raise ValueError("it has no sample")
    begins, contents = list[int](), dict[str, Content]()
    for key, places in groupby(range(len(keys)), keys.__getitem__):
        _refuse_key(key, contents)
        contents[key] = {"__key__": key}
        for place in places:
            suffix = names[place][len(key) + 1 :].lower()
            if suffix in contents[key]:
                raise ValueError(f"{names[place]} is there twice")
            if len(contents[key]) == 1:
                begins.append(offsets[place])
            contents[key][suffix] = files[place]
    samples = list(contents.values())
    return _Shard(
        samples,
        [*begins, end],
        sum(decoding.sound(content) is not None for content in samples),
        sum(len(decoding.pictures(content)) for content in samples),
    )


def _refuse_key(key: str, known: Container[str]) -> None:
    if key in known:
        raise ValueError(
            f"the files of {key} do not lie one after the other; pack it anew with `tar --sort=name`"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {key!a} is not UTF-8; rename it") from error


def verify(
    urls: str | Sequence[str], *, manifest: str | None = None, decode: bool = False, processes: int = 1
) -> Verified:
    """Compare shards with their manifest: their bytes, samples, sounds and pictures; find damaged samples.

    Args:
        urls: addresses of the shards, or the manifest.
        manifest: its address, if it is not beside them.
        decode: decode every sample, also of shards that are as they were.
        processes: that read.
    """
    dataset = Shards(urls, manifest=manifest)
    numbers = range(len(dataset.shards))
    found = list(
        in_processes(_Verify(dataset, decode), numbers, processes=processes, title="Verifying shards")
    )
    lines = [line for one in found for line in one.wrong]
    return Verified(lines, *(sum(counts) for counts in zip(*(one[1:] for one in found), strict=True)))


@dataclass(frozen=True)
class _Verify:
    dataset: Shards
    decode: bool

    def __call__(self, number: int) -> Verified:
        url, entry = self.dataset.shards[number]
        shard: _Shard | None = None
        try:
            with opened(url, to_the_end=True) as stream:
                hashing = _Hashing(stream)
                try:
                    shard = _read_shard(hashing)
                except (ValueError, tarfile.TarError) as error:
                    damage = str(error)
                while hashing.read(_CHUNK):
                    pass
        except OSError as error:
            return Verified([f"{url}: {error}"], 0, 0, 0)
        lines = []
        if hashing.count != entry.size_bytes:
            lines.append(f"{url}: {hashing.count:,} bytes; the manifest says {entry.size_bytes:,}")
        elif hashing.digest.hexdigest() != entry.sha256:
            lines.append(f"{url}: its sha256 is another than the manifest says")
        elif shard is None:
            lines.append(f"{url}: {damage}")
        damaged = self._damaged(number) if lines or self.decode else []
        if shard is None:
            return Verified(lines + damaged, 0, 0, 0)
        counts = (len(shard.contents), shard.sounds, shard.pictures)
        expected = (len(entry), entry.sounds, entry.pictures)
        for what, count, wanted in zip(("samples", "sounds", "pictures"), counts, expected, strict=True):
            if wanted is not None and count != wanted:
                lines.append(f"{url}: {count:,} {what}; the manifest says {wanted:,}")
        return Verified(lines + damaged, *counts)

    def _damaged(self, number: int) -> list[str]:
        lines = []
        for read in self.dataset.stream(self.dataset.indices_of(number)):
            try:
                read()
            except ValueError as error:
                lines.append(f"  {error}")
        return lines


class _Hashing:
    """A file that counts and hashes what is read of it, from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.count = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        self.count += len(content)
        return content


def _only(values: set[int | None]) -> int | None:
    return next(iter(values)) if len(values) == 1 else None
