"""Fetching from an unreliable server yields the correct file or a clear error."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from model.weights import fetch as fetching
from model.weights.fetch import FetchError, RemoteFile, fetch

if TYPE_CHECKING:
    from tests.conftest import Web

CONTENT = np.random.default_rng(0).bytes(500_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def file(web: Web, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    """Serve a published file of 500,000 bytes, correctly unless a test says otherwise."""
    monkeypatch.delenv("AUDIOCLIP_MIRROR")
    web.files["v1/weights.pt"] = CONTENT
    return RemoteFile("weights.pt", f"{web.url}/v1/weights.pt", len(CONTENT), SHA256)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "assets" / "weights.pt"


def ranges(web: Web) -> list[str]:
    return web.asked["/v1/weights.pt"]


def fails(file: RemoteFile, target: Path, reason: str, **arguments: Any) -> None:
    """Check that fetching fails for this reason, says what to do, and leaves nothing in place."""
    with pytest.raises(FetchError, match=re.escape(reason)) as caught:
        fetch(file, target, **arguments)
    for part in (str(target), file.url, str(file.size_bytes), SHA256.removeprefix("sha256:")):
        assert part in str(caught.value)
    assert not target.exists()


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(web: Web, file: RemoteFile, target: Path) -> None:
    assert fetch(file, target) == target
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["weights.pt"]
    assert fetch(file, target) == target
    assert ranges(web) == [""]


def test_a_fetch_is_announced_with_a_bar_on_terminals_only(
    file: RemoteFile, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(file, target)
    captured = capsys.readouterr()
    assert captured.err == f"Fetching {file.url} to {target}\n"
    assert captured.out == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for progress in (True, False):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        target.unlink()
        fetch(file, target, progress=progress)
        assert ("weights.pt: 100%" in terminal.getvalue()) is progress
        assert bool(terminal.getvalue()) is progress


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        *[([word, word], 3) for word in ("cut 200000", "500", "503", "429")],
        (["drop"], 2),
        (["cut 70000"] * 7, 8),  # any number of interruptions is accepted while new bytes arrive
        (["cut 200000", "strange"], 2),
        (["open"], 1),
    ],
)
def test_a_file_arrives_despite_temporary_failures(
    script: list[str], requests: int, web: Web, file: RemoteFile, target: Path
) -> None:
    web.script[:] = script
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert len(ranges(web)) == requests


def test_a_broken_transfer_continues_where_it_stopped(web: Web, file: RemoteFile, target: Path) -> None:
    web.script[:] = ["cut 200000", "cut 150000", "500"]
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    starts = [int(asked.strip("bytes=-") or 0) for asked in ranges(web)]
    assert starts[0] == 0 < starts[1] < starts[2] == starts[3]
    assert starts[1] > 100_000
    assert starts[2] > 250_000


def test_pauses_double_and_the_number_of_attempts_is_limited(
    web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.script[:] = ["502"] * 9
    fails(file, target, "could not be fetched: the server answers 502 Bad Gateway. Put the file there")
    assert [pause for pause in pauses if pause] == [1, 2, 4, 8]
    assert len(ranges(web)) == 5


def test_a_later_call_continues_a_partial_file(web: Web, file: RemoteFile, target: Path) -> None:
    web.script[:] = ["cut 300000", "404"]
    fails(file, target, "the server answers 404 Not Found")
    kept = target.with_name("weights.pt.partial").stat().st_size
    assert kept > 200_000
    web.etag = '"another node of the same service"'
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert ranges(web)[-1] == f"bytes={kept}-"


def test_without_range_support_the_download_starts_over(web: Web, file: RemoteFile, target: Path) -> None:
    web.ranges = False
    web.script[:] = ["cut 200000", "cut 100000"]
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert ranges(web)[1].startswith("bytes=")
    target.unlink()
    web.script[:] = ["cut 200000"] * 9
    fails(file, target, "could not be fetched")  # fetching ends although new bytes arrive each time


def test_a_file_without_a_hash_always_starts_over(web: Web, tmp_path: Path) -> None:
    file = RemoteFile("archive.zip", f"{web.url}/archive.zip")
    web.files["archive.zip"] = CONTENT
    (tmp_path / "archive.zip.partial").write_bytes(b"of an older version")
    web.script[:] = ["cut 200000"]
    fetch(file, tmp_path / "archive.zip", mirror=web.url)
    assert (tmp_path / "archive.zip").read_bytes() == CONTENT
    assert web.asked["/archive.zip"] == ["", ""]


def test_a_file_with_a_wrong_hash_is_deleted(web: Web, file: RemoteFile, target: Path) -> None:
    web.files["v1/weights.pt"] = CONTENT[:-1] + b"\0"
    fails(file, target, "the downloaded file has the wrong sha256; deleted it")
    assert leftovers(target) == []
    assert ranges(web) == [""]


def test_a_wrong_partial_file_is_replaced(web: Web, file: RemoteFile, target: Path) -> None:
    target.parent.mkdir()
    for wrong in (b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)):
        target.with_name("weights.pt.partial").write_bytes(wrong)
        fetch(file, target)
        assert target.read_bytes() == CONTENT
        assert leftovers(target) == ["weights.pt"]
        target.unlink()
    assert ranges(web) == ["bytes=1000-", "", "", ""]


def test_md5_digests_are_checked(web: Web, file: RemoteFile, target: Path) -> None:
    md5 = RemoteFile(file.name, file.url, file.size_bytes, f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    fetch(md5, target)
    target.unlink()
    web.files["v1/weights.pt"] = CONTENT[::-1]
    with pytest.raises(FetchError, match="has the wrong md5"):
        fetch(md5, target)


def test_a_file_of_another_size_is_not_downloaded(web: Web, file: RemoteFile, target: Path) -> None:
    web.files["v1/weights.pt"] = b"<html>Log in to the hotel's network</html>"
    fails(file, target, "the server's file has 42 bytes instead of 500000")
    web.script[:] = ["open"] * 9  # the length is not announced
    fails(file, target, "received 42 bytes instead of 500000")
    web.files["v1/weights.pt"] = CONTENT + b"more"
    web.script[:] = ["open"] * 9
    fails(file, target, "received 500004 bytes instead of 500000")


@pytest.mark.parametrize("status", ["404", "403"])
def test_a_refused_request_is_not_repeated(status: str, web: Web, file: RemoteFile, target: Path) -> None:
    web.script[:] = [status]
    fails(file, target, f"the server answers {status}")
    assert len(ranges(web)) == 1


def test_an_existing_file_of_another_size_is_an_error_and_stays(
    web: Web, file: RemoteFile, target: Path
) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT[:1000])
    with pytest.raises(FetchError, match=r"has 1000 bytes, the published file 500000: .* Remove it"):
        fetch(file, target)
    assert target.read_bytes() == CONTENT[:1000]
    assert ranges(web) == []


def test_being_offline_is_reported_quickly(file: RemoteFile, target: Path) -> None:
    unreachable = RemoteFile(file.name, "http://127.0.0.1:9/weights.pt", file.size_bytes, file.digest)
    began = time.monotonic()
    fails(unreachable, target, "could not be fetched: [Errno 111] Connection refused. Put the file there by")
    nowhere = RemoteFile(file.name, "http://no.such.host.invalid/weights.pt", file.size_bytes, file.digest)
    fails(nowhere, target, "could not be fetched: ")
    assert time.monotonic() - began < 5


def test_a_stalled_server_times_out(
    web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUTS_SECONDS", (0.05, 0.05))
    web.delay_seconds = 0.3
    fails(file, target, "timed out")


def test_an_argument_or_the_environment_names_a_mirror(
    web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["mirror/weights.pt"] = CONTENT
    fetch(file, target, mirror=f"{web.url}/mirror/")
    target.unlink()
    monkeypatch.setenv("AUDIOCLIP_MIRROR", f"{web.url}/mirror")
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert len(web.asked["/mirror/weights.pt"]) == 2
    assert ranges(web) == []
    target.unlink()
    fails(file, target, "404", mirror=f"{web.url}/elsewhere")
    fails(file, target, "No connection adapters were found", mirror="file:///tmp")
    fails(file, target, "Invalid URL", mirror="nowhere")


def test_a_password_in_an_address_is_not_shown(
    file: RemoteFile, target: Path, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = web.url.replace("//", "//user:secret@") + "/none"
    fails(file, target, f"{web.url}/none/weights.pt could not be fetched", mirror=mirror)
    assert "secret" not in capsys.readouterr().err


SCRIPT = """
import sys, time
from pathlib import Path
from model.weights.fetch import RemoteFile, fetch
url, size, digest, target = sys.argv[1:]
fetch(RemoteFile("weights.pt", url, int(size), digest), Path(target))
"""


@pytest.fixture
def start(file: RemoteFile, target: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Return a function that starts a process which fetches the file."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        arguments = [file.url, str(file.size_bytes), str(file.digest), str(target)]
        command = [sys.executable, "-c", SCRIPT, *arguments]
        started.append(subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_concurrent_processes_fetch_once(
    web: Web, target: Path, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    web.delay_seconds = 1.0
    processes = [start() for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0, 0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert ranges(web) == [""]


def test_a_killed_process_leaves_neither_lock_nor_file(
    web: Web, file: RemoteFile, target: Path, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    web.script[:] = ["cut 300000"] + ["503"] * 2  # so that the first process is killed in a pause
    process = start()
    partial = target.with_name("weights.pt.partial")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (partial.exists() and len(ranges(web)) >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert not target.exists()
    web.script.clear()
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert ranges(web)[-1].startswith("bytes=")


def test_a_full_disk_is_an_error_and_the_partial_file_stays(
    web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        fails(file, target, "cannot be written ([Errno 28] No space left on device). Free some space")
    assert leftovers(target) == ["weights.pt.partial"]
    fetch(file, target)
    assert target.read_bytes() == CONTENT
    assert len(ranges(web)) == 1


def test_a_lack_of_disk_space_is_found_before_the_transfer(
    file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        FetchError, match=rf"{target.parent}: not enough space; 500000 bytes are needed, 1000 are free"
    ):
        fetch(file, target)
    assert leftovers(target) == []


def test_a_folder_that_cannot_be_written_is_an_error(file: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    fails(file, tmp_path / "a file" / "weights.pt", "cannot be written (")
