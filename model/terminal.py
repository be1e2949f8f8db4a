"""Output of the commands in any terminal encoding."""

import io
import sys


def replace_unknown_letters() -> None:
    """Print a question mark for a letter that the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
