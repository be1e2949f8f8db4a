"""A user name and a home folder for users without them, as in `docker run --user 12345`."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

# Folders and files that libraries read from the home folder: downloaded weights, loggers' passwords.
_LINKED = (".cache/torch", ".cache/huggingface", ".netrc")


def ensure_home() -> None:
    """Set USER if the user has no name, and HOME to a temporary folder if the home folder is not writable.

    torch names a folder after the user, and caches, dashboards and fonts are stored in the home folder. Child
    processes inherit both variables. Files that libraries cached in a read-only home folder are linked into
    the new home folder.
    """
    if not hasattr(os, "getuid"):  # Windows, where every user has a name and a home folder
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises without a home folder
    if any(os.access(folder, os.W_OK | os.X_OK) for folder in (home, home / ".cache") if home.is_absolute()):
        return
    made = Path(tempfile.gettempdir(), f"home-of-{getpass.getuser()}")
    try:
        made.mkdir(mode=0o700, exist_ok=True)
        if made.is_symlink() or made.stat().st_uid != os.getuid():
            made = Path(tempfile.mkdtemp(prefix="home-"))  # the existing folder belongs to another user
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="home-"))
    _link(home, made)
    os.environ["HOME"] = str(made)
    logging.getLogger(__name__).warning(
        "The home folder is not writable; caches and dashboards go to %s. Set HOME to keep them.", made
    )


def _link(home: Path, made: Path) -> None:
    """Link every cached file into the new home folder, where new files can be written next to the links."""
    for place in _LINKED:
        cached = (Path(folder, name) for folder, _, names in os.walk(home / place) for name in names)
        for source in (home / place, *cached):  # `os.walk` skips what cannot be read
            link = made / source.relative_to(home)
            with suppress(OSError):  # linked by another process, or unreadable
                if source.is_file() and not link.exists():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.unlink(missing_ok=True)  # a link into another home folder
                    link.symlink_to(source)
