"""The samples of one shard as they lie there, undecoded: read forward from anywhere, or picked by offset.

Addresses are paths, `file:`, `http:` and `https:` addresses, and `pipe:` with a command that writes a shard.
Such a command is run by the shell, so a protocol with one is a program: it is refused unless the environment
variable `AUDIOCLIP_PIPES` is 1.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from braceexpand import braceexpand

from utils.shards.keys import is_of_a_sample, key_of_sample
from utils.shards.manifest import TAR_BLOCK, ShardEntry

PIPES_VARIABLE = "AUDIOCLIP_PIPES"
MOST_SHARDS = 1_000_000
ATTEMPTS = 3
"""How often a shard is asked of elsewhere before it counts as damaged: connections break."""

Content = dict[str, Any]
"""A sample of webdataset: `__key__`, and the bytes of each of its files by their suffix, such as "flac"."""


def expand(urls: str | Sequence[str]) -> list[str]:
    """Write out patterns such as `data/train-{000000..000127}.tar`.

    Raises:
        ValueError: there is no address, one of a kind that is not read, or too many.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given or not all(given):
        raise ValueError(
            f"urls is {urls!r}; an address, a pattern of addresses or a list of these is expected."
        )
    ranges = [re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern) for pattern in given]
    most = max((abs(int(last) - int(first)) for found in ranges for first, last in found), default=0)
    if most > MOST_SHARDS:
        raise ValueError(f"urls is {urls!r}: more than {MOST_SHARDS:,} shards.")
    try:
        found = [url for pattern in given for url in islice(braceexpand(pattern), MOST_SHARDS + 1)]
    except ValueError as error:  # unbalanced
        raise ValueError(f"urls is {urls!r}, whose braces do not close.") from error
    if len(found) > MOST_SHARDS:
        raise ValueError(f"urls is {urls!r}: more than {MOST_SHARDS:,} shards.")
    for url in found:
        _check_kind(url)
    return found


def local_path(url: str) -> Path | None:
    """Where a shard lies on this machine; None: elsewhere."""
    parts = urlparse(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme in ("http", "https", "pipe") else Path(url).expanduser()


def file_name(url: str) -> str:
    """The name of a shard's file, by which the manifest knows it; of a command the last word with .tar."""
    if url.startswith("pipe:"):
        words = re.findall(r"[^\s/'\"]+\.tar\b", url)
        return words[-1] if words else url
    return Path(urlparse(url).path).name


def beside(url: str, name: str) -> str | None:
    """The address of another file in the same folder; None: a command has no folder."""
    if url.startswith("pipe:"):
        return None
    if "?" in url or "#" in url:
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    return f"{url.rpartition('/')[0]}/{name}" if "/" in url else name


@contextlib.contextmanager
def opened(url: str, *, to_the_end: bool = False) -> Iterator[BinaryIO]:
    """Open what is at an address, to be read from its beginning.

    Args:
        url: the address.
        to_the_end: it will be read to its end; else a transfer is broken off when the block is left.

    Raises:
        OSError: it cannot be opened, or a transfer that is to be whole has failed.
    """
    _check_kind(url)
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
            stream.proc.terminate()  # it may wait for a network, and would not notice
        stream.close()


def forward(stream: BinaryIO, entry: ShardEntry) -> Iterator[Content]:
    """Read the samples of an open shard in their order.

    Raises:
        ValueError: from there on it cannot be read.
    """
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
                tar.members = []  # type: ignore[attr-defined]  # else it keeps one for every file
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if number < len(ends) and files and reached >= ends[number]:
        yield content_of(files, names[number])


def content_of(files: Sequence[tuple[str, bytes]], name: str) -> Content:
    """Make a sample of its files: their names and contents; `name` is its own in the manifest.

    Raises:
        ValueError: there is none, or two have one name.
    """
    if not files:
        raise ValueError("no sample there")
    key = key_of_sample([file for file, _ in files], name)
    content: Content = {"__key__": key}
    for file, data in files:
        suffix = file[len(key) + 1 :].lower()
        if suffix in content:
            raise ValueError(f"{file} is there twice")
        content[suffix] = data
    return content


class LocalShard:
    """A shard in a file of this machine: any sample is read at once, by its offset."""

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        """Open nothing yet."""
        self._path, self._entry = path, entry
        self._names = entry.names
        self._file: BinaryIO | None = None

    def read(self, positions: Sequence[int]) -> Iterator[Callable[[], Content]]:
        """Give what reads each of these samples, at the time it is called."""
        if self._file is None:
            with contextlib.suppress(OSError):  # said by each sample
                self._file = self._path.open("rb")
        if self._file is not None and len(positions) > 1 and hasattr(os, "posix_fadvise"):
            start, end = (
                int(self._entry.offsets[min(positions)]),
                int(self._entry.offsets[max(positions) + 1]),
            )
            os.posix_fadvise(self._file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)
        return (lambda position=position: self._at(position) for position in positions)  # type: ignore[misc]

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
            return content_of(_files(data), self._names[position])
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{self._path} is damaged at byte {start:,} ({error})") from error


class RemoteShard:
    """A shard elsewhere: read forward, and what is not wanted is passed over."""

    def __init__(self, url: str, entry: ShardEntry) -> None:
        """Ask for nothing yet."""
        self._url, self._entry = url, entry
        self._samples: Iterator[Content] | None = None
        self._stack = contextlib.ExitStack()
        self._next = 0
        self._error: Exception | None = None

    def read(self, positions: Sequence[int]) -> Iterator[Callable[[], Content]]:
        """Give what reads each of these samples; what comes before its turn is held, undecoded, meanwhile."""
        wanted, held = set(positions), dict[int, Content]()
        for position in positions:
            error = self._advance(position, wanted, held) if position not in held else None
            yield _raising(error) if error else _giving(held.pop(position))
            wanted.discard(position)

    def close(self) -> None:
        """End the transfer."""
        self._samples = None
        with contextlib.suppress(OSError):  # left before its end
            self._stack.close()

    def _advance(self, position: int, wanted: Collection[int], held: dict[int, Content]) -> Exception | None:
        """Read up to a position and hold what is wanted; return what is wrong if it cannot be reached."""
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
                reached = self._next
                self.close()
                if attempt == ATTEMPTS - 1:
                    self._next = reached
                    self._error = ValueError(
                        f"{self._url} is damaged or cannot be reached: {reached} of its {len(self._entry)} "
                        f"samples could be read ({error})"
                    )
        return self._error


def _files(data: bytes) -> list[tuple[str, bytes]]:
    """The files of a piece of a tar file."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [
            (member.name, data[member.offset_data : member.offset_data + member.size])
            for member in tar
            if is_of_a_sample(member)
        ]


def _giving(content: Content) -> Callable[[], Content]:
    return lambda: content


def _raising(error: Exception) -> Callable[[], Content]:
    def fail() -> Content:
        raise error

    return fail


def _check_kind(url: str) -> None:
    scheme = urlparse(url).scheme
    if scheme == "pipe" and os.environ.get(PIPES_VARIABLE) != "1":
        raise ValueError(
            f"urls has {url}, a command that would be run. If you know it, set the environment variable "
            f"{PIPES_VARIABLE} to 1."
        )
    if len(scheme) > 1 and scheme not in ("file", "http", "https", "pipe"):
        raise ValueError(
            f"urls has {url}; paths, file:, http: and https: addresses are read. For {scheme}: write a pipe: "
            "with the command that gets it."
        )
