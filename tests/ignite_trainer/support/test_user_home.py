"""Users without a name or a home, as in `docker run --user 12345`."""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ignite_trainer.support.user_home import ensure_home
from model.storage.places import default_cache_folder

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")
# Makes `pwd` know no user, before anything else is imported.
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
        monkeypatch.setenv(name, "")  # to be restored later
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("home", [None, "/proc/none"])
def test_a_user_without_a_name_and_a_home_gets_both(
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
def test_a_home_made_by_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"home-of-user-{os.getuid()}").symlink_to(tmp_path / "theirs")
    ensure_home()
    assert Path.home().parent == tmp_path
    assert Path.home().resolve() != (tmp_path / "theirs").resolve()


@pytest.mark.usefixtures("nameless")
def test_caches_of_a_read_only_home_are_linked_into_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, blob = tmp_path / "image", ".cache/huggingface/hub/models--a/blobs/1"
    cached = [".netrc", ".cache/torch/hub/checkpoints/resnet.pth", blob]
    for name in cached:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    snapshot = home / ".cache/huggingface/hub/models--a/snapshots/main/model.bin"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to("../../blobs/1")
    (home / ".visdom").mkdir()
    access = os.access  # root may write everywhere
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and not Path(path).is_relative_to(home)
    )
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for _ in range(2):  # a second run uses the same home
        monkeypatch.setenv("HOME", str(home))
        ensure_home()
        assert Path.home() != home
        assert [(Path.home() / name).read_text() for name in cached] == cached
        assert (Path.home() / snapshot.relative_to(home)).read_text() == blob
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    assert (checkpoints / "resnet.pth").read_text() == cached[1]
    (checkpoints / "new.pth").write_text("fetched now")
    assert not (home / ".cache/torch/hub/checkpoints/new.pth").exists()
    assert not (Path.home() / ".visdom").exists()


@pytest.mark.usefixtures("nameless")
def test_a_home_that_cannot_be_entered_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, access, stat, scandir = tmp_path / "root", os.access, os.stat, os.scandir
    (home / ".cache/torch").mkdir(parents=True)

    def refuse(path: Any) -> Any:
        if str(path).startswith(str(home)):
            raise PermissionError(f"Permission denied: {path}")
        return path

    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "root" not in str(path))
    monkeypatch.setattr(os, "stat", lambda path, **options: stat(refuse(path), **options))
    monkeypatch.setattr(os, "scandir", lambda path: scandir(refuse(path)))
    monkeypatch.setenv("HOME", str(home))
    ensure_home()
    assert Path.home() == tmp_path / f"home-of-user-{os.getuid()}"


@pytest.mark.usefixtures("nameless")
def test_links_into_another_home_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "image" not in str(path))
    for number in (1, 2):
        cached = tmp_path / f"image-{number}/.cache/torch/a.pth"
        cached.parent.mkdir(parents=True)
        cached.write_text(str(number))
        monkeypatch.setenv("HOME", str(tmp_path / f"image-{number}"))
        ensure_home()
        assert (Path.home() / ".cache/torch/a.pth").read_text() == str(number)
        cached.unlink()


def test_a_writable_home_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path)
    assert caplog.text == ""


@pytest.mark.usefixtures("nameless")
def test_without_a_home_decoded_audio_is_cached_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUDIOCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache_folder() == tmp_path / f"audioclip-user-{os.getuid()}"


@pytest.mark.processes
def test_the_networks_can_be_imported_by_a_user_without_a_name() -> None:
    code = NAMELESS + "import model.audioclip, torch._dynamo"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True)
