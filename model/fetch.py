"""Fetch one file over HTTP: whole and right in its place, or not there at all.

    CLIP.pt.lock       held by the one process that fetches; others wait for it and find the file there
    CLIP.pt.partial    what came so far; the next try continues it, and a wrong one is thrown away
    CLIP.pt            by renaming, after size and hash were found right

pooch does the hashing. Its `retrieve` deletes what a broken transfer left, does not lock and does not look at
the room on the disk, so these are here, on requests: redirects, proxies of the environment and certificates
are its part.
"""

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

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

MIRROR_VARIABLE = "AUDIOCLIP_MIRROR"
"""Environment variable: an address under which the files lie by their names, instead of the published one."""

PAUSE_SECONDS = 1.0
"""Before the second attempt; each further pause is twice the one before."""

ATTEMPTS = 5
"""In a row that bring nothing new."""

ATTEMPTS_UNREACHED = 2
"""Where the server never answered: offline is to be known soon."""

TIMEOUTS_SECONDS = (5.0, 60.0)
"""For the connection, and for the next bytes to come."""

_CHUNK_BYTES = 1 << 16
_STATUS_WORTH_ANOTHER_TRY = {408, 425, 429}  # and all from 500

logger = logging.getLogger(__name__)


class FetchError(OSError):
    """A file was not fetched; nothing is in its place, and the message says how to get it there."""


@dataclass(frozen=True)
class RemoteFile:
    """One published file."""

    name: str
    """By which a mirror has it."""
    url: str
    size_bytes: int | None = None
    """None: not stable, and not checked."""
    digest: str | None = None
    """Algorithm and hexadecimal digest, or the beginning of it, `sha256:0123...`; None: not checked."""

    def __str__(self) -> str:
        parts = [self.url]
        if self.size_bytes is not None:
            parts.append(f"{self.size_bytes} bytes")
        if self.digest is not None:
            parts.append(self.digest.replace(":", " "))
        return ", ".join(parts)


def fetch(file: RemoteFile, target: Path, *, mirror: str | None = None, progress: bool = True) -> Path:
    """Make a file be there: fetch it, unless it is.

    A file that is there is held against the size alone; the hash was taken when it was fetched.

    Args:
        file: what to fetch.
        target: where to put it; folders are made.
        mirror: address under which a file of this name lies; None: `$AUDIOCLIP_MIRROR` if set, else the
            published address.
        progress: say what is fetched, and show a bar where there is a terminal.

    Returns:
        The target.

    Raises:
        FetchError: it cannot be had or written, is not what was published, or a file of another size is in
            its place.
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
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise FetchError(
            f"{target}: not there, and cannot be written ({error}). Make room or another folder, or put the "
            f"file there by other means ({file})."
        ) from None
    return target


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise a FetchError unless the disk of an existing folder has room."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FetchError(
            f"{folder}: no room; {max(needed_bytes, 0)} bytes are needed, {free} are free. Make room there."
        )


class _Failure(Exception):
    """Why a file cannot be had; final. `fetch` makes an error of it."""


class _Broken(Exception):
    """Why an attempt ended; another one may do better."""


class _Download:
    """One file on its way into `partial`, over as many attempts as it takes."""

    def __init__(self, file: RemoteFile, url: str, partial: Path, *, progress: bool) -> None:
        self.file = file
        self.url = url
        self.partial = partial
        self.progress = progress
        self.reached = False
        self.validator: str | None = None  # names the version that `partial` is the beginning of

    def run(self) -> None:
        """Leave the whole file, size and hash as published, on the disk in `partial`."""
        while True:
            continued = self._begun() > 0
            self._transfer()
            if self._is_right():
                return
            self.partial.unlink()
            if not continued:
                raise _Failure(f"what came has not the {self._algorithm()} it should, and was thrown away")
            logger.warning("%s: what an earlier try had left was wrong; fetching it anew", self.file.name)

    def _transfer(self) -> None:
        """Attempt until all is there."""
        farthest, in_vain = self._begun(), 0
        while True:
            try:
                self._attempt()
                return
            except (requests.RequestException, _Broken) as error:
                if isinstance(error, ValueError):  # an address that is none
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
        """Ask once for what is missing and append it, or begin anew if the server wants that."""
        too_long = self.file.size_bytes is not None and self._begun() > self.file.size_bytes
        if too_long or (self.file.digest is None and self.validator is None):  # of any version
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
            if count > expected or total is None:  # then it ended as the server meant it to
                self.partial.unlink()
            raise _Broken(f"{count} bytes came instead of {expected}")

    def _answer(self, response: requests.Response, start: int) -> tuple[int, int | None]:
        """Where what the server sends begins, and how large its whole file is, if it says so."""
        status = response.status_code
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.partial.unlink(missing_ok=True)
            raise _Broken("the server's file is shorter than what is already here")
        if status >= 500 or status in _STATUS_WORTH_ANOTHER_TRY:
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
        weak = not tag or tag.startswith("W/")  # says too little for a range
        self.validator = response.headers.get("Last-Modified") if weak else tag
        return start, total

    def _begun(self) -> int:
        """Bytes that are here."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _algorithm(self) -> str:
        return (self.file.digest or "").partition(":")[0]

    def _is_right(self) -> bool:
        if self.file.digest is None:
            return True
        found = pooch.file_hash(str(self.partial), alg=self._algorithm())
        return f"{self._algorithm()}:{found}".startswith(self.file.digest.lower())


def _is_there(file: RemoteFile, target: Path) -> bool:
    if not target.exists():
        return False
    size = target.stat().st_size
    if not target.is_file() or file.size_bytes not in (None, size):
        raise FetchError(
            f"{target} has {size} bytes, the published file {file.size_bytes}: it is cut short, or another "
            f"one. Take it away and it is fetched anew, or put the right one there ({file})."
        )
    return True


def _reason(error: BaseException) -> str:
    """What lies at the bottom of nested network errors, without addresses and passwords."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return str(error) or type(error).__name__


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
