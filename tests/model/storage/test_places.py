"""Folders and user names on systems without the POSIX functions for users."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from model.storage.places import default_cache_folder, user_name

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME", "AUDIOCLIP_CACHE")


def test_a_user_without_a_name_has_one_on_windows_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert user_name() == "user"
    assert default_cache_folder() == tmp_path / "audioclip-user"
    monkeypatch.setenv("USERNAME", "ada")
    assert user_name() == "ada"
