"""Lookup of shards by address, and reading of their undecoded samples, sequentially or by offset.

An address is a path, a `file:`, `http:` or `https:` address, or `pipe:` with a command that writes a shard.
The shell runs this command, so a protocol that contains one is a program: it is refused unless the
environment variable `AUDIOCLIP_PIPES` is 1.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from braceexpand import braceexpand

from utils.shards.keys import is_of_a_sample, key_of_sample
from utils.shards.manifest import FILE_NAME, TAR_BLOCK, Manifest, SetEntry, ShardEntry

PIPES_VARIABLE = "AUDIOCLIP_PIPES"
ATTEMPTS = 3
"""Maximum number of requests for a remote shard before it counts as damaged, as connections may break."""

_INDEX = "`python -m utils.shards index` makes one"
_SHOWN = 5
_MAX_SHARDS = 1_000_000

Content = dict[str, Any]
"""Sample in webdataset's form: `__key__`, and the bytes of each file by suffix, such as "flac"."""


class ShardSet(NamedTuple):
    """Shards, first those of manifests given as addresses; `whole` if no shard of a manifest is missing."""

    about: SetEntry
    shards: list[tuple[str, ShardEntry]]
    whole: bool


def find(urls: str | Sequence[str], manifest: str | Sequence[str] | None = None) -> ShardSet:
    """Look up shards in their manifests.

    Args:
        urls: addresses or patterns of shards, or of manifests, which stand for all their shards.
        manifest: addresses of the shards' manifests; None for the manifests in the shards' folders.

    Raises:
        ValueError: An address or a manifest is invalid, or a shard is not in a manifest.
        OSError: A manifest cannot be read.
    """
    addresses = expand(urls)
    given = [url for url in addresses if _is_manifest(url)]
    others = [url for url in addresses if not _is_manifest(url)]
    named = [*given, *(expand(manifest) if manifest is not None else map(_manifest_beside, others))]
    manifests = {url: _load(url) for url in dict.fromkeys(named)}
    shards = list[tuple[str, ShardEntry]]()
    for url in given:
        shards += [(beside(url, entry.file) or entry.file, entry) for entry in manifests[url].shards]
    known: dict[str, ShardEntry] = {}
    for entry in chain.from_iterable(read.shards for read in manifests.values()) if others else ():
        if known.setdefault(entry.file, entry).sha256 != entry.sha256:
            raise ValueError(f"manifest: {entry.file} is in two manifests, with different contents.")
    if unknown := [url for url in others if file_name(url) not in known]:
        more = f" and {len(unknown) - _SHOWN} more" * (len(unknown) > _SHOWN)
        raise ValueError(
            f"urls has shards that no manifest lists: {', '.join(unknown[:_SHOWN])}{more}; {_INDEX}."
        )
    shards += [(url, known[file_name(url)]) for url in others]
    if len({url for url, _ in shards}) < len(shards):
        raise ValueError("urls lists a shard twice; list it once, since every sample is read once.")
    whole = len(shards) == sum(len(read.shards) for read in manifests.values())
    return ShardSet(_merged([read.about for read in manifests.values()]), shards, whole)


def expand(urls: str | Sequence[str]) -> list[str]:
    """Expand patterns such as `data/train-{000000..000127}.tar`.

    Raises:
        ValueError: There are no addresses or too many, or an address has an unsupported scheme.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given or not all(given):
        raise ValueError(
            f"urls is {urls!r}; an address, a pattern of addresses or a list of these is expected."
        )
    # braceexpand holds all numbers of a range in memory.
    ranges = [re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern) for pattern in given]
    counts = [math.prod(abs(int(last) - int(first)) + 1 for first, last in pattern) for pattern in ranges]
    if max(counts) > _MAX_SHARDS:
        raise ValueError(f"urls is {urls!r}, which stands for more than {_MAX_SHARDS:,} shards.")
    try:
        addresses = [url for pattern in given for url in braceexpand(pattern)]
    except ValueError as error:
        raise ValueError(f"urls is {urls!r}, whose braces are unbalanced.") from error
    for url in addresses:
        _check_scheme(url)
    return addresses


def local_path(url: str) -> Path | None:
    """Return the path of a shard on this machine, or None for a remote one."""
    parts = urlparse(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme in ("http", "https", "pipe") else Path(url).expanduser()


def file_name(url: str) -> str:
    """Return a shard's file name in the manifest; for a command, the last word that ends in .tar."""
    if url.startswith("pipe:"):
        words = re.findall(r"[^\s/'\"]+\.tar\b", url)
        return words[-1] if words else url
    return Path(urlparse(url).path).name


def beside(url: str, name: str) -> str | None:
    """Return the address of another file in the same folder; None for a command, which has no folder."""
    if url.startswith("pipe:"):
        return None
    folder = re.split(r"[?#]", url, maxsplit=1)[0].rpartition("/")
    return f"{folder[0]}{folder[1]}{name}"


@contextlib.contextmanager
def opened(url: str, *, to_the_end: bool = False) -> Iterator[BinaryIO]:
    """Open an address for reading from its beginning.

    Args:
        url: address to open.
        to_the_end: whether the caller reads to the end; if not, leaving the block aborts the transfer.

    Raises:
        OSError: The address cannot be opened, or a transfer that was read to the end has failed.
    """
    _check_scheme(url)
    path = local_path(url)
    if path is not None:
        with path.open("rb") as file:
            yield file
        return
    from webdataset.gopen import gopen  # noqa: PLC0415 - takes seconds

    stream = gopen(url, "rb")
    finished = False
    try:
        yield stream
        finished = to_the_end
    finally:
        if not finished:
            stream.ignore_errors = True
            stream.proc.terminate()  # waiting for a network, it may not notice that the pipe is closed
        stream.close()


def forward(stream: BinaryIO, entry: ShardEntry) -> Iterator[Content]:
    """Read the samples of an open shard in order; raise ValueError at the first damaged sample."""
    names, ends = entry.names, entry.offsets[1:].tolist()
    number, reached, files = 0, 0, list[tuple[str, bytes]]()
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                if number < len(ends) and member.offset >= ends[number]:
                    yield content_of(files, names[number])
                    number, files = number + 1, []
                if is_of_a_sample(member) and member.offset >= entry.offsets[0]:
                    file = tar.extractfile(member)
                    assert file is not None, "a regular file has content"
                    files.append((member.name, file.read()))
                reached = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
                tar.members = []  # type: ignore[attr-defined]  # the archive would keep every member
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if number < len(ends) and files and reached >= ends[number]:
        yield content_of(files, names[number])


def content_of(files: Sequence[tuple[str, bytes]], name: str) -> Content:
    """Build a sample from the names and contents of its files; `name` is its name in the manifest.

    Raises:
        ValueError: There is no file, or two have the same name.
    """
    if not files:
        raise ValueError("there is no sample")
    key = key_of_sample([file for file, _ in files], name)
    content: Content = {"__key__": key}
    for file, data in files:
        suffix = file[len(key) + 1 :].lower()
        if suffix in content:
            raise ValueError(f"{file} occurs twice")
        content[suffix] = data
    return content


class LocalShard:
    """A shard in a file on this machine: reads any sample directly, by its offset."""

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        self._path, self._entry = path, entry
        self._names = entry.names
        self._file: BinaryIO | None = None

    def read(self, positions: Sequence[int]) -> Iterator[Callable[[], Content]]:
        """Yield, for each position, a function that reads its sample."""
        if self._file is None:
            with contextlib.suppress(OSError):  # each sample reports it
                self._file = self._path.open("rb")
        if self._file is not None and len(positions) > 1 and hasattr(os, "posix_fadvise"):
            start, end = map(int, self._entry.offsets[[min(positions), max(positions) + 1]])
            os.posix_fadvise(self._file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)
        return (functools.partial(self._at, position) for position in positions)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _at(self, position: int) -> Content:
        start, end = map(int, self._entry.offsets[position : position + 2])
        with contextlib.nullcontext(self._file) if self._file else self._path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) < end - start:
            raise ValueError(f"{self._path} is cut short: it ends in or before this sample")
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                files = [
                    (member.name, data[member.offset_data : member.offset_data + member.size])
                    for member in tar
                    if is_of_a_sample(member)
                ]
            return content_of(files, self._names[position])
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{self._path} is damaged at byte {start:,} ({error})") from error


class RemoteShard:
    """A remote shard: reads sequentially and drops samples that are not wanted."""

    def __init__(self, url: str, entry: ShardEntry) -> None:
        self._url, self._entry = url, entry
        self._samples: Iterator[Content] | None = None
        self._stack = contextlib.ExitStack()
        self._next = 0
        self._error: Exception | None = None

    def read(self, positions: Sequence[int]) -> Iterator[Callable[[], Content]]:
        """Yield, for each position, a function that returns its sample.

        Wanted samples that come before their turn are held, undecoded.
        """
        wanted, held = set(positions), dict[int, Content]()
        for position in positions:
            error = self._advance(position, wanted, held) if position not in held else None
            yield functools.partial(_result, held.pop(position, {}), error)
            wanted.discard(position)

    def close(self) -> None:
        """End the transfer."""
        self._samples = None
        with contextlib.suppress(OSError):  # the transfer was stopped early
            self._stack.close()

    def _advance(self, position: int, wanted: Collection[int], held: dict[int, Content]) -> Exception | None:
        """Read up to a position and hold wanted samples; return the error if it cannot be reached."""
        if self._error is not None and position >= self._next:
            return self._error
        for attempt in range(ATTEMPTS):
            try:
                if self._samples is None or position < self._next:
                    self.close()
                    stream = self._stack.enter_context(opened(self._url))
                    self._samples, self._next = forward(stream, self._entry), 0
                while self._next <= position:
                    content = next(self._samples, None)
                    if content is None:
                        raise ValueError("it ends there")
                    if self._next in wanted:
                        held[self._next] = content
                    self._next += 1
                return None
            except (OSError, ValueError) as error:
                self.close()
                if attempt == ATTEMPTS - 1:
                    self._error = ValueError(
                        f"{self._url} is damaged or cannot be reached: {self._next} of its "
                        f"{len(self._entry)} samples could be read ({error})"
                    )
        return self._error


def _result(content: Content, error: Exception | None) -> Content:
    if error is not None:
        raise error
    return content


def _check_scheme(url: str) -> None:
    scheme = urlparse(url).scheme
    if scheme == "pipe" and os.environ.get(PIPES_VARIABLE) != "1":
        raise ValueError(
            f"urls has {url}, a command that would be run. If you trust it, set the environment variable "
            f"{PIPES_VARIABLE} to 1."
        )
    if len(scheme) > 1 and scheme not in ("file", "http", "https", "pipe"):
        raise ValueError(
            f"urls has {url}; paths, file:, http: and https: addresses can be read. For the scheme "
            f"{scheme}, write pipe: and a command that writes the shard to its standard output."
        )


def _is_manifest(url: str) -> bool:
    return file_name(url).endswith(".jsonl")


def _manifest_beside(shard: str) -> str:
    url = beside(shard, FILE_NAME)
    if url is None:
        raise ValueError(
            "no manifest is given, and a command (pipe:) has no folder to look in; set manifest."
        )
    return url


def _load(url: str) -> Manifest:
    try:
        with opened(url, to_the_end=True) as file:
            return Manifest.parse(io.BytesIO(file.read()), source=url)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The shards have no manifest: {url} does not exist; {_INDEX}.") from error


def _merged(sets: Sequence[SetEntry]) -> SetEntry:
    """Describe several sets as one: all class names, and the files that all samples have."""
    if len(sets) == 1:
        return sets[0]
    name = " and ".join(dict.fromkeys(one.name for one in sets))
    return SetEntry.of(sets, name=name, class_names=(name for one in sets for name in one.class_names))
