"""Shards read from end to end: to make the manifest of those without one, or to compare them with theirs."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from utils.datasets.shards import Shards
from utils.shards import decoding
from utils.shards.manifest import FORMAT, TAR_BLOCK, Manifest, SetEntry, ShardEntry
from utils.shards.parallel import in_processes
from utils.shards.reading import Content, expand, file_name, opened

_CHUNK = 1 << 20
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset passes over
_SAID = frozenset({"json", "txt", "cls"})


class _Indexed(NamedTuple):
    entry: ShardEntry
    suffixes: set[str]
    labels: set[str]
    texts: bool


def index(
    urls: str | Sequence[str], *, name: str, class_names: Sequence[str] = (), processes: int = 1
) -> Manifest:
    """Make the manifest of shards that have none, of samples as webdataset knows them.

    Args:
        urls: addresses of the shards, or patterns.
        name: what results on the set may be called.
        class_names: all labels in their order, of which a `cls` is the number; empty: those found, sorted.
        processes: that read.

    Raises:
        ValueError: a shard is damaged, compressed or without a sample.
        OSError: one cannot be read.
    """
    call = _Index(list(class_names))
    found = list(in_processes(call, expand(urls), processes=processes, title="Reading shards"))
    labels = sorted(set().union(*(one.labels for one in found)))
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
    return Manifest(about=about, shards=tuple(one.entry for one in found))


@dataclass(frozen=True)
class _Index:
    class_names: list[str]

    def __call__(self, url: str) -> _Indexed:
        try:
            with opened(url, to_the_end=True) as stream:
                return self._read(_Hashing(stream), file_name(url))
        except (ValueError, tarfile.TarError) as error:
            raise ValueError(f"{url} cannot be indexed: {error}.") from error

    def _read(self, stream: _Hashing, file: str) -> _Indexed:
        from webdataset.tariterators import base_plus_ext  # noqa: PLC0415 - takes seconds

        offsets, end, keys = list[int](), 0, list[str]()
        contents = list[Content]()  # without what is large
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as tar:
            for member in tar:
                key, suffix = base_plus_ext(member.name)
                if not member.isreg() or key is None or _META.match(member.name):
                    continue
                if not keys or key != keys[-1]:
                    keys.append(key)
                    offsets.append(member.offset)
                    contents.append({"__key__": key})
                if suffix.lower() in contents[-1]:
                    raise ValueError(f"{member.name} is there twice")
                opened_member = tar.extractfile(member) if suffix.lower() in _SAID else None
                contents[-1][suffix.lower()] = opened_member.read() if opened_member else b""
                end = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
            while rest := tar.fileobj.read(_CHUNK):
                if any(rest):
                    raise ValueError(
                        f"it is damaged after {len(keys)} samples, at byte {tar.offset:,} or before"
                    )
        if stream.count < end + TAR_BLOCK:  # a tar file ends with empty blocks
            raise ValueError(f"it is cut short after {len(keys)} samples")
        if not keys:
            raise ValueError("it has no sample")
        said = [decoding.about(content, self.class_names) for content in contents]
        return _Indexed(
            ShardEntry.of(
                file=file,
                size_bytes=stream.count,
                sha256=stream.digest.hexdigest(),
                fold=_only({decoding.fold(content) for content in contents}),
                split=None,
                offsets=[*offsets, end],
                names=[one.name or key for one, key in zip(said, keys, strict=True)],
            ),
            set.intersection(*map(decoding.suffixes, contents)),
            {label for one in said for label in one.labels},
            any(one.text is not None for one in said),
        )


def verify(
    urls: str | Sequence[str], *, manifest: str | None = None, decode: bool = False, processes: int = 1
) -> list[str]:
    """Compare shards with their manifest, byte for byte; of one that differs find the damaged samples.

    Args:
        urls: addresses of the shards, or the manifest.
        manifest: its address, if it is not beside them.
        decode: decode every sample, also of shards that are as they were.
        processes: that read.

    Returns:
        What is wrong, a line each; nothing if all is well.
    """
    dataset = Shards(urls, manifest=manifest)
    numbers = range(len(dataset.shards))
    found = in_processes(_Verify(dataset, decode), numbers, processes=processes, title="Verifying shards")
    return [line for lines in found for line in lines]


@dataclass(frozen=True)
class _Verify:
    dataset: Shards
    decode: bool

    def __call__(self, number: int) -> list[str]:
        url, entry = self.dataset.shards[number]
        try:
            with opened(url, to_the_end=True) as stream:
                hashing = _Hashing(stream)
                while hashing.read(_CHUNK):
                    pass
        except OSError as error:
            return [f"{url}: {error}"]
        lines = []
        if hashing.count != entry.size_bytes:
            lines.append(f"{url}: {hashing.count:,} bytes; the manifest says {entry.size_bytes:,}")
        elif hashing.digest.hexdigest() != entry.sha256:
            lines.append(f"{url}: its sha256 is another than the manifest says")
        return lines + (self._damaged(number) if lines or self.decode else [])

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
