"""Complete reading of shards, to make a manifest for them or to compare them with an existing manifest."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from utils.datasets.shards import Shards
from utils.shards.decoding import pictures, sound, summarise, unread
from utils.shards.keys import DESCRIBING, is_of_a_sample, sample_keys
from utils.shards.making import in_processes
from utils.shards.manifest import TAR_BLOCK, Hashing, Manifest, SetEntry, Summary
from utils.shards.reading import Content, content_of, expand, file_name, opened

_CHUNK = 1 << 20
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


class Indexed(NamedTuple):
    """A new manifest, and the number of ignored parts of samples, by kind."""

    manifest: Manifest
    unread: dict[str, int]


class Verified(NamedTuple):
    """Faults of shards, one line each, and counts of the shards' contents."""

    wrong: list[str]
    samples: int
    sounds: int
    pictures: int


def index(
    urls: str | Sequence[str], *, name: str, class_names: Sequence[str] = (), processes: int = 1
) -> Indexed:
    """Make a manifest for shards without one.

    Args:
        urls: addresses of the shards, or patterns.
        name: name of the set in results.
        class_names: all labels, in the order of the numbers in `cls`; empty for the sorted labels found.
        processes: number of reading processes.

    Raises:
        ValueError: A shard is damaged, compressed or empty, or the files of a sample are not adjacent.
        OSError: A shard cannot be read.
    """
    call = _Index(list(class_names))
    results = list(in_processes(call, expand(urls), processes=processes, title="Reading shards"))
    labels = sorted({label for shard, _ in results for label in shard.entry.labels or ()})
    if class_names and (unknown := sorted(set(labels) - set(class_names))):
        raise ValueError(f"samples have labels that are not classes: {', '.join(unknown[:10])}.")
    made_from = {"urls": urls if isinstance(urls, str) else list(urls)}
    about = SetEntry.of(
        [shard for shard, _ in results], name=name, class_names=class_names or labels, made_from=made_from
    )
    counts = sum((parts for _, parts in results), Counter[str]())
    manifest = Manifest(about=about, shards=tuple(shard.entry for shard, _ in results))
    return Indexed(manifest, dict(counts.most_common()))


@dataclass(frozen=True)
class _Index:
    class_names: list[str]

    def __call__(self, url: str) -> tuple[Summary, Counter[str]]:
        try:
            with opened(url, to_the_end=True) as file:
                stream = Hashing(file)
                contents, offsets = _read_shard(stream)
                summary = summarise(
                    contents,
                    self.class_names,
                    file=file_name(url),
                    size_bytes=stream.count,
                    sha256=stream.digest.hexdigest(),
                    offsets=offsets,
                )
                return summary, Counter(part for content in contents for part in unread(content))
        except (ValueError, tarfile.TarError) as error:
            unpack = " Shards are not compressed: unpack it, for example with gunzip."
            raise ValueError(
                f"{url} cannot be indexed: {error}.{unpack * url.endswith(_COMPRESSED)}"
            ) from error


def verify(
    urls: str | Sequence[str], *, manifest: str | None = None, decode: bool = False, processes: int = 1
) -> Verified:
    """Compare shards with their manifest (bytes, samples, sounds, images) and find damaged samples.

    Args:
        urls: addresses of the shards, or of the manifest.
        manifest: address of the manifest; None if it is in the shards' folder.
        decode: whether to decode every sample, even in unchanged shards.
        processes: number of reading processes.
    """
    dataset = Shards(urls, manifest=manifest)
    numbers = range(len(dataset.shards))
    results = list(
        in_processes(_Verify(dataset, decode), numbers, processes=processes, title="Verifying shards")
    )
    lines = [line for shard in results for line in shard.wrong]
    return Verified(lines, *(sum(counts) for counts in zip(*(shard[1:] for shard in results), strict=True)))


@dataclass(frozen=True)
class _Verify:
    dataset: Shards
    decode: bool

    def __call__(self, number: int) -> Verified:
        url, entry = self.dataset.shards[number]
        contents: list[Content] | None = None
        try:
            with opened(url, to_the_end=True) as stream:
                hashing = Hashing(stream)
                try:
                    contents, _ = _read_shard(hashing)
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
            lines.append(f"{url}: its sha256 differs from that in the manifest")
        elif contents is None:
            lines.append(f"{url}: {damage}")
        damaged = self._damaged(number) if lines or self.decode else []
        if contents is None:
            return Verified(lines + damaged, 0, 0, 0)
        sounds = sum(sound(content) is not None for content in contents)
        counts = (len(contents), sounds, sum(len(pictures(content)) for content in contents))
        expected = (len(entry), entry.sounds, entry.pictures)
        for what, count, wanted in zip(("samples", "sounds", "images"), counts, expected, strict=True):
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


def _read_shard(stream: Hashing) -> tuple[list[Content], list[int]]:
    """Read a shard to its end.

    Returns:
        The samples, with empty sounds and images; and the offsets of their beginnings and of the last end.

    Raises:
        ValueError, tarfile.TarError: the shard is damaged, or the file is not a shard.
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
            tar.members = []  # type: ignore[attr-defined]  # it would keep one for every file
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
        if key in contents:
            raise ValueError(f"the files of {key} are not adjacent; pack it again with `tar --sort=name`")
        if key != key.encode(errors="replace").decode():
            raise ValueError(f"the name {key!a} is not UTF-8; rename it")
        of_sample = list(places)
        begins.append(offsets[of_sample[0]])
        contents[key] = content_of([(names[place], files[place]) for place in of_sample], key)
    return list(contents.values()), [*begins, end]
