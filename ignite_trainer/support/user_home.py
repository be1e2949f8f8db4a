"""A name and a home for users without one, as in `docker run --user 12345`."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

# Folders and files that libraries read in a home: downloaded weights, passwords of loggers.
_LINKED = (".cache/torch", ".cache/huggingface", ".netrc")


def ensure_home() -> None:
    """Set USER if the user has no name, and HOME to a temporary folder if the home is not writable.

    torch names a folder after the user; caches, dashboards and fonts are in the home. Child processes inherit
    both. Files that libraries cached in a read-only home are linked into the new one.
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
            made = Path(tempfile.mkdtemp(prefix="home-"))  # the other one belongs to somebody else
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="home-"))
    _link(home, made)
    os.environ["HOME"] = str(made)
    logging.getLogger(__name__).warning(
        "The home folder is not writable; caches and dashboards go to %s. Set HOME to keep them.",
        made,
    )


def _link(home: Path, made: Path) -> None:
    """Link every cached file into the new home, so that new files can be written beside the links."""
    for place in _LINKED:
        walked = ((folder, files) for folder, _, files in os.walk(home / place))
        for folder, files in [(str((home / place).parent), [Path(place).name]), *walked]:
            for source in (Path(folder, name) for name in files):
                link = made / source.relative_to(home)
                with suppress(OSError):  # linked by another process, or unreadable
                    if source.is_file() and not link.exists():
                        link.parent.mkdir(parents=True, exist_ok=True)
                        link.unlink(missing_ok=True)  # a link into another home
                        link.symlink_to(source)
