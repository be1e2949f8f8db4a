"""A name and a home for the user, where the system knows none, as of `docker run --user 12345`."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Set USER where the user has no name, and HOME where there is no home that can be written.

    torch names a folder after the user; caches, dashboards and fonts lie in the home. Child processes
    inherit both.
    """
    if not hasattr(os, "getuid"):  # Windows, where every user has both
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises where there is none
    if any(os.access(folder, os.W_OK | os.X_OK) for folder in (home, home / ".cache") if home.is_absolute()):
        return
    made = Path(tempfile.gettempdir(), f"home-of-{getpass.getuser()}")
    try:
        made.mkdir(mode=0o700, exist_ok=True)
        if made.is_symlink() or made.stat().st_uid != os.getuid():
            made = Path(tempfile.mkdtemp(prefix="home-"))  # somebody else's: nothing of ours goes there
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="home-"))
    os.environ["HOME"] = str(made)
    logging.getLogger(__name__).warning(
        "There is no home folder that can be written; caches and dashboards go to %s. Set HOME to keep them.",
        made,
    )
