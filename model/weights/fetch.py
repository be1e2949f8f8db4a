"""Download one file over HTTP, whole and verified, or leave nothing in its place.

    CLIP.pt.lock       held by the one process that downloads; others wait, and find the file
    CLIP.pt.partial    bytes so far; the next attempt continues it
    CLIP.pt            renamed from the partial file after size and hash were checked

requests handles redirects, proxies from the environment and certificates. Retries are here, since urllib3's
`Retry` can neither continue a body that broke off nor start counting again when new bytes arrive.
"""

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from tqdm import tqdm

MIRROR_VARIABLE = "AUDIOCLIP_MIRROR"
"""Environment variable: URL of a folder that has the files by name, used instead of the published one."""

PAUSE_SECONDS = 1.0
"""Pause before the second attempt; each further pause is twice as long."""

ATTEMPTS = 5
"""Consecutive attempts without a new byte."""

ATTEMPTS_UNREACHED = 2
"""The same while the server has never answered, so that being offline is reported soon."""

TIMEOUTS_SECONDS = (5.0, 60.0)
"""For the connection, and for the next bytes."""

_CHUNK_BYTES = 1 << 16
_RETRIED_STATUS = {408, 425, 429}  # and all from 500

logger = logging.getLogger(__name__)


class FetchError(OSError):
    """A file could not be fetched; nothing is in its place, and the message says how to get it there."""


@dataclass(frozen=True)
class RemoteFile:
    """One published file."""

    name: str
    """File name at a mirror."""
    url: str
    size_bytes: int | None = None
    """None if it changes; then it is not checked."""
    digest: str | None = None
    """Algorithm and hexadecimal digest or its beginning, `sha256:0123...`; None if not checked."""

    def __str__(self) -> str:
        parts = [self.url]
        if self.size_bytes is not None:
            parts.append(f"{self.size_bytes} bytes")
        if self.digest is not None:
            parts.append(self.digest.replace(":", " "))
        return ", ".join(parts)


def fetch(file: RemoteFile, target: Path, *, mirror: str | None = None, progress: bool = True) -> Path:
    """Download a file unless it exists.

    Of an existing file only the size is checked; the hash was checked after the download.

    Args:
        file: what to download.
        target: where to put it; missing folders are created.
        mirror: URL of a folder that has the file; None for `$AUDIOCLIP_MIRROR` if set, else the published
            URL.
        progress: print what is downloaded, and show a bar in a terminal.

    Returns:
        The target.

    Raises:
        FetchError: the file cannot be downloaded or written, differs from the published one, or a file of
            another size is in its place.
    """
    if _is_there(file, target):
        return target
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_there(file, target):
                if progress:
                    tqdm.write(f"Fetching {_without_password(url)} to {target}", file=sys.stderr)
                _Download(file, url, partial, progress=progress).run()
                partial.replace(target)
    except _Failure as failure:
        raise FetchError(
            f"{target}: not there, and {_without_password(url)} could not be fetched: {failure}. Put the "
            f"file there by other means ({file}), or set {MIRROR_VARIABLE} to the address of a folder that "
            "has it."
        ) from None
    except FetchError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise FetchError(
            f"{target}: not there, and cannot be written ({error}). Make room or another folder, or put the "
            f"file there by other means ({file})."
        ) from None
    return target


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise a FetchError if the disk of an existing folder has too little room."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FetchError(
            f"{folder}: no room; {max(needed_bytes, 0)} bytes are needed, {free} are free. Make room there."
        )


class _Failure(Exception):
    """The download failed for good; `fetch` turns this into a FetchError."""


class _Broken(Exception):
    """An attempt failed; another one may succeed."""


class _Download:
    """The download of one file to `partial`, in as many attempts as it takes."""

    def __init__(self, file: RemoteFile, url: str, partial: Path, *, progress: bool) -> None:
        self.file = file
        self.url = url
        self.partial = partial
        self.progress = progress
        self.reached = False
        self.validator: str | None = None  # identifies the version of the file that `partial` is from

    def run(self) -> None:
        """Download the whole file to `partial`, and check its size and hash."""
        while True:
            continued = self._begun() > 0
            self._transfer()
            if self._is_right():
                return
            self.partial.unlink()
            if not continued:
                raise _Failure(f"the downloaded file has the wrong {self._algorithm()}; deleted it")
            logger.warning("%s: an earlier attempt left a wrong part; downloading all of it", self.file.name)

    def _transfer(self) -> None:
        """Attempt until all bytes are here, or too many attempts brought none."""
        farthest, in_vain = self._begun(), 0
        while True:
            try:
                self._attempt()
                return
            except (requests.RequestException, _Broken) as error:
                if isinstance(error, ValueError):  # an invalid URL
                    raise _Failure(str(error)) from error
                in_vain = 0 if self._begun() > farthest else in_vain + 1
                farthest = max(farthest, self._begun())
                if in_vain >= (ATTEMPTS if self.reached else ATTEMPTS_UNREACHED):
                    raise _Failure(_reason(error)) from error
                pause = PAUSE_SECONDS * 2 ** max(in_vain - 1, 0)
                reason = _reason(error)
                logger.warning("%s: %s; trying again in %g s", self.file.name, reason, pause)
                time.sleep(pause)

    def _attempt(self) -> None:
        """Request the missing bytes once and append them, or start over if the server sends all."""
        too_long = self.file.size_bytes is not None and self._begun() > self.file.size_bytes
        if too_long or (self.file.digest is None and self.validator is None):  # version unknown
            self.partial.unlink(missing_ok=True)
        start = self._begun()
        if start and start == self.file.size_bytes:
            return
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.validator:
                headers["If-Range"] = self.validator
        with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS_SECONDS) as response:
            self.reached = True
            start, total = self._answer(response, start)
            if total is not None:
                check_room(self.partial.parent, total - self._begun())
            with (
                self.partial.open("ab" if start else "wb") as out,
                tqdm(
                    desc=self.file.name,
                    initial=start,
                    total=total,
                    unit="B",
                    unit_scale=True,
                    disable=None if self.progress else True,
                ) as bar,
            ):
                for chunk in response.iter_content(_CHUNK_BYTES):
                    out.write(chunk)
                    bar.update(len(chunk))
                out.flush()
                os.fsync(out.fileno())
        expected = total if self.file.size_bytes is None else self.file.size_bytes
        if expected is not None and self._begun() != expected:
            count = self._begun()
            if count > expected or total is None:  # the server sent all that it has
                self.partial.unlink()
            raise _Broken(f"{count} bytes came instead of {expected}")

    def _answer(self, response: requests.Response, start: int) -> tuple[int, int | None]:
        """Return the offset of the first byte sent, and the size of the server's file if it states one."""
        status = response.status_code
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.partial.unlink(missing_ok=True)
            raise _Broken("the server's file is shorter than what is already here")
        if status >= 500 or status in _RETRIED_STATUS:
            raise _Broken(f"the server answers {status} {response.reason}")
        if status == HTTPStatus.PARTIAL_CONTENT:
            answer = response.headers.get("Content-Range", "")
            parts = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.strip())
            if parts is None or int(parts[1]) != start:
                self.partial.unlink(missing_ok=True)
                raise _Broken(f'the server sends "{answer}" instead of the bytes from {start} on')
            total = None if parts[2] == "*" else int(parts[2])
        elif status == HTTPStatus.OK:
            start = 0
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None
        else:
            raise _Failure(f"the server answers {status} {response.reason}")
        if None not in (total, self.file.size_bytes) and total != self.file.size_bytes:
            raise _Failure(f"the server's file has {total} bytes instead of {self.file.size_bytes}")
        tag = response.headers.get("ETag", "")
        weak = not tag or tag.startswith("W/")  # not valid for ranges
        self.validator = response.headers.get("Last-Modified") if weak else tag
        return start, total

    def _begun(self) -> int:
        """Return the size of the partial file."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _algorithm(self) -> str:
        return (self.file.digest or "").partition(":")[0]

    def _is_right(self) -> bool:
        if self.file.digest is None:
            return True
        found = hashlib.new(self._algorithm())
        with self.partial.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                found.update(chunk)
        return f"{self._algorithm()}:{found.hexdigest()}".startswith(self.file.digest.lower())


def _is_there(file: RemoteFile, target: Path) -> bool:
    if not target.exists():
        return False
    size = target.stat().st_size
    if not target.is_file() or file.size_bytes not in (None, size):
        raise FetchError(
            f"{target} has {size} bytes, the published file {file.size_bytes}: it is incomplete, or a "
            f"different one. Remove it to download it again, or put the right one there ({file})."
        )
    return True


def _reason(error: BaseException) -> str:
    """Return the innermost of nested network errors, which has no URL and thus no password."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return str(error) or type(error).__name__


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
