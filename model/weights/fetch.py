"""Downloads single files over HTTP; a file is only put in place after it is complete and verified.

    CLIP.pt.lock       held by the process that downloads; other processes wait, then find the file
    CLIP.pt.partial    bytes received so far; the next attempt continues after them
    CLIP.pt            the partial file, renamed after its size and hash have been checked

requests follows redirects and handles proxies (HTTPS_PROXY, HTTP_PROXY, NO_PROXY). Certificates are those of
certifi or REQUESTS_CA_BUNDLE, and of the system or SSL_CERT_FILE. Retries are implemented here because
urllib3's `Retry` cannot continue an interrupted response.
"""

import hashlib
import logging
import os
import re
import shutil
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm

MIRROR_VARIABLE = "AUDIOCLIP_MIRROR"
"""Environment variable with the URL of a folder of files, to use in place of the files' published URLs."""

PAUSE_SECONDS = 1.0
"""Pause before the second attempt; each further pause is twice as long."""

ATTEMPTS = 5
"""Maximum consecutive attempts without a new byte."""

ATTEMPTS_OFFLINE = 2
"""Maximum attempts to connect before the first byte, so that a user who is offline soon learns of it."""

TIMEOUTS_SECONDS = (5.0, 60.0)
"""Timeouts for connecting and for the next bytes."""

_CHUNK_BYTES = 1 << 16
_RETRIED_STATUS = {408, 425, 429}  # in addition to all from 500

logger = logging.getLogger(__name__)


class FetchError(OSError):
    """A file could not be fetched, or a file of another size is in its place; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str
    """File name at a mirror."""
    url: str
    size_bytes: int | None = None
    """Size of the file; None if it varies and cannot be checked."""
    digest: str | None = None
    """Algorithm and hexadecimal digest or its start, `sha256:0123...`; None if it cannot be checked."""

    def __str__(self) -> str:
        parts = [self.url]
        if self.size_bytes is not None:
            parts.append(f"{self.size_bytes} bytes")
        if self.digest is not None:
            parts.append(self.digest.replace(":", " "))
        return ", ".join(parts)


def fetch(file: RemoteFile, target: Path, *, mirror: str | None = None, progress: bool = True) -> Path:
    """Download a file unless it exists.

    Only the size of an existing file is checked; its hash was checked after the download.

    Args:
        file: published file to download.
        target: path to write it to; missing folders are created.
        mirror: URL of a folder with the file; None for `$AUDIOCLIP_MIRROR` if set, otherwise the published
            URL.
        progress: print the URL and target of a download, and show a progress bar in a terminal.

    Returns:
        The path `target`.

    Raises:
        FetchError: The file cannot be downloaded or written, differs from the published file, or `target`
            exists with another size.
    """
    if _exists(file, target):
        return target
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _exists(file, target):
                if progress:
                    tqdm.write(f"Fetching {_without_password(url)} to {target}", file=sys.stderr)
                _download(file, url, partial, progress=progress)
                partial.replace(target)
    except (requests.RequestException, ValueError) as error:
        raise FetchError(
            f"{target}: missing, and {_without_password(url)} could not be fetched{through_proxy(url)}: "
            f"{_reason(error)}. {_advice(url, error)}Put the file there by other means ({file}), or set "
            f"{MIRROR_VARIABLE} to the URL of a folder that contains it."
        ) from None
    except FetchError:
        raise
    except (OSError, NotImplementedError) as error:  # NotImplementedError: the file system has no locks
        raise FetchError(
            f"{target}: missing, and cannot be written ({error}). Free some space or choose another folder, "
            f"or put the file there by other means ({file})."
        ) from None
    return target


def through_proxy(url: str) -> str:
    """Return " through the proxy HOST:PORT" for messages, or "" without a proxy in the environment."""
    proxy = _proxy(url)
    return " through the proxy " + re.sub(r"\S*@|\w*://", "", proxy).rstrip("/") if proxy else ""


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise a FetchError if an existing folder's disk has too little free space."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FetchError(
            f"{folder}: not enough space; {max(needed_bytes, 0)} bytes are needed, {free} are free. Make "
            "room there."
        )


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's hexadecimal hash."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _download(file: RemoteFile, url: str, partial: Path, *, progress: bool) -> None:
    """Retry until the file is complete and correct, or too many consecutive attempts add no new byte."""
    initial = largest = _size(partial)
    failures = 0
    while True:
        try:
            return _attempt(file, url, partial, progress=progress)
        except requests.RequestException as error:
            failures = 0 if _size(partial) > largest else failures + 1
            largest = max(largest, _size(partial))
            offline = isinstance(error, requests.ConnectionError) and largest == initial
            if isinstance(error, ValueError) or failures >= (ATTEMPTS_OFFLINE if offline else ATTEMPTS):
                raise  # a ValueError means that the URL is invalid
            pause = PAUSE_SECONDS * 2 ** max(failures - 1, 0)
            logger.warning("%s: %s; trying again in %g s", file.name, _reason(error), pause)
            time.sleep(pause)


def _attempt(file: RemoteFile, url: str, partial: Path, *, progress: bool) -> None:
    """Request the missing bytes once, append them, and check the whole file.

    Raises:
        requests.RequestException: another attempt may succeed.
        ValueError: No attempt can succeed.
    """
    size = file.size_bytes
    if file.digest is None or (size is not None and _size(partial) > size):
        partial.unlink(missing_ok=True)  # without a digest, the parts could come from two versions
    start = _size(partial)
    if start == 0 or start != size:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with _get(url, headers) as response:
            start, total = _check_answer(response, file, partial, start)
            if total is not None:
                check_room(partial.parent, total - start)
            bar = {"desc": file.name, "initial": start, "total": total, "disable": None if progress else True}
            with partial.open("ab" if start else "wb") as out, tqdm.wrapattr(out, "write", **bar) as sink:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    sink.write(chunk)
                out.flush()
                os.fsync(out.fileno())
        expected = total if size is None else size
        if expected not in (None, count := _size(partial)):
            partial.unlink()
            raise requests.RequestException(f"received {count} bytes instead of {expected}")
    if file.digest is None:
        return
    algorithm = file.digest.partition(":")[0]
    if not f"{algorithm}:{hash_of(partial, algorithm)}".startswith(file.digest.lower()):
        partial.unlink()
        if start:
            raise requests.RequestException("an earlier attempt left a wrong part, which is deleted")
        raise ValueError(f"the downloaded file has the wrong {algorithm}; deleted it")


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    session = requests.Session()
    session.mount("https://", _SystemCertificates())
    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUTS_SECONDS)
    except requests.RequestException:
        raise
    except OSError as error:  # $REQUESTS_CA_BUNDLE names a missing file
        raise ValueError(str(error)) from None


class _SystemCertificates(HTTPAdapter):
    """Also trusts the certificates that the system trusts, such as a company's own."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=ssl.create_default_context())

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*args, **options, ssl_context=ssl.create_default_context())


def _check_answer(
    response: requests.Response, file: RemoteFile, partial: Path, start: int
) -> tuple[int, int | None]:
    """Return the position of the first byte sent, and the size of the server's file or None if unknown."""
    status = response.status_code
    answer = f"the server answers {status} {response.reason}"
    if status >= 500 or status in _RETRIED_STATUS:
        raise requests.RequestException(answer)
    refused_range = status == requests.codes.requested_range_not_satisfiable
    if not refused_range and status not in (requests.codes.ok, requests.codes.partial_content):
        raise ValueError(answer)
    here, start = start, start if status == requests.codes.partial_content else 0
    length = response.headers.get("Content-Length", "")
    known = length.isdigit() and "Content-Encoding" not in response.headers
    total = start + int(length) if known else None
    wrong_size = None not in (total, file.size_bytes) and total != file.size_bytes
    if refused_range or (start and wrong_size):
        partial.unlink(missing_ok=True)
        raise requests.RequestException(f"the server's file does not continue the {here} bytes already here")
    if wrong_size:
        raise ValueError(f"the server's file has {total} bytes instead of {file.size_bytes}")
    return start, total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _exists(file: RemoteFile, target: Path) -> bool:
    if not target.exists():
        return False
    size = target.stat().st_size
    if not target.is_file() or file.size_bytes not in (None, size):
        raise FetchError(
            f"{target} has {size} bytes, the published file {file.size_bytes}: it is incomplete or a "
            f"different file. Remove it to download it again, or put the right file there ({file})."
        )
    return True


def _reason(error: BaseException) -> str:
    """Return the message of the innermost nested network error, without users and passwords."""
    if isinstance(error, requests.exceptions.InvalidURL):
        return "an address is not valid"  # the message could show a part of a password
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return re.sub(r"\S+@", "", str(error)) or type(error).__name__


def _advice(url: str, error: BaseException) -> str:
    """Say which environment variables set the proxy, or the certificates if these are the reason."""
    if "certificate" in _reason(error):
        return (
            "If your organisation has its own certificates, set SSL_CERT_FILE to a file that contains them "
            "(PEM). "
        )
    if _proxy(url):
        return (
            "HTTPS_PROXY and HTTP_PROXY set the proxy, as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT "
            "(percent-encoded); hosts in NO_PROXY are reached without it. "
        )
    return ""


def _proxy(url: str) -> str | None:
    """Return the proxy that requests takes from the environment, with its password; None without a proxy."""
    try:
        proxy: str | None = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    except ValueError:  # not a URL
        return None
    return proxy


def _without_password(url: str) -> str:
    return re.sub(r"^(\w*://)?[^/]*@", r"\1", url)
