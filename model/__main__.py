"""The command line: `python -m model` in a clone of the repository, `audioclip` where it is installed."""

from __future__ import annotations

import sys

from .commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
