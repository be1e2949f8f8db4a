"""Default folders of downloads and caches."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def default_cache_folder() -> Path:
    """Return `$AUDIOCLIP_CACHE` if set, and otherwise `audioclip` in the user's cache folder (`~/.cache`).

    Without a home directory, the folder for temporary files is used instead.
    """
    if chosen := os.environ.get("AUDIOCLIP_CACHE"):
        return Path(chosen).expanduser()
    users = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(users) if users else Path.home() / ".cache") / "audioclip"
    except RuntimeError:
        return Path(tempfile.gettempdir(), f"audioclip-{ensure_user_name()}")


def default_assets() -> Path:
    """Return the folder of the released weights: `assets/` in a clone, otherwise one in the cache folder."""
    own = _PACKAGE.parent / "assets"
    return own if _PACKAGE.name == "model" and own.is_dir() else default_cache_folder() / "assets"


def ensure_user_name() -> str:
    """Return the user's name; if there is none, set USER to `user-` and the user's number (or `user`)."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # ImportError: Windows
        os.environ["USER"] = f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"
        return getpass.getuser()
