"""A user without a name or a home, as of `docker run --user 12345`."""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.home import ensure_home
from utils.datasets.cache import default_cache_folder

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")
# What `pwd` says of a user that is in no table, before anything else is imported.
NAMELESS = """
import os, pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("home", [None, "/proc/none"])
def test_a_user_without_name_and_home_gets_both(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if home:
        monkeypatch.setenv("HOME", home)
    ensure_home()
    assert getpass.getuser() == f"user-{os.getuid()}"
    assert Path.home() == tmp_path / f"home-of-user-{os.getuid()}"
    assert Path.home().stat().st_mode & 0o777 == 0o700
    assert f"caches and dashboards go to {Path.home()}" in caplog.text


@pytest.mark.usefixtures("nameless")
def test_nothing_goes_into_a_home_that_somebody_else_made(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"home-of-user-{os.getuid()}").symlink_to(tmp_path / "theirs")
    ensure_home()
    assert Path.home().parent == tmp_path
    assert Path.home().resolve() != (tmp_path / "theirs").resolve()


def test_a_home_that_can_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path)
    assert caplog.text == ""


@pytest.mark.usefixtures("nameless")
def test_decoded_audio_of_a_user_without_a_home_is_cached_with_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUDIOCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache_folder() == tmp_path / f"audioclip-{os.getuid()}"


def test_the_networks_can_be_imported_by_a_user_without_a_name() -> None:
    code = NAMELESS + "import model.audioclip, torch._dynamo"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True)
