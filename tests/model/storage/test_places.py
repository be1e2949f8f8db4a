"""Folders and user names: in a clone, of the installed package, on Windows, without a name."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from model.storage import places
from model.storage.places import default_assets, default_cache_folder, ensure_user_name

ROOT = Path(__file__).parents[3]
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
# Makes `pwd` know no user.
NAMELESS = """
import pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "HOME", "XDG_CACHE_HOME", "AUDIOCLIP_CACHE"):
        monkeypatch.setenv(name, "")  # to be restored later
        monkeypatch.delenv(name)


def test_a_user_without_a_name_has_one_on_windows_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert default_cache_folder() == tmp_path / "audioclip-user"
    assert os.environ.pop("USER") == "user"
    monkeypatch.setenv("USERNAME", "ada")
    assert ensure_user_name() == "ada"


@pytest.mark.parametrize(
    ("setup", "variables", "user"),
    [
        ("", {}, None),
        (NAMELESS, {"LOGNAME": "alice"}, None),
        (NAMELESS, {}, f"user-{os.getuid()}"),
        (NAMELESS, {"USER": ""}, f"user-{os.getuid()}"),
    ],
)
def test_importing_the_package_sets_a_user_name_only_if_there_is_none(
    setup: str, variables: dict[str, str], user: str | None
) -> None:
    code = f"{setup}\nimport getpass, os, model; getpass.getuser(); print(os.environ.get('USER'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{user}\n"


def test_weights_are_in_assets_in_a_clone_and_otherwise_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUDIOCLIP_CACHE", str(tmp_path / "cache"))
    assert default_assets() == ROOT / "assets"
    (tmp_path / "site-packages/assets").mkdir(parents=True)  # of another distribution
    for package in ("site-packages/audioclip", "elsewhere/model"):
        monkeypatch.setattr(places, "_PACKAGE", tmp_path / package)
        assert default_assets() == tmp_path / "cache/assets"
