"""Progress of long operations: a bar in a terminal, otherwise a line every half minute."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Minimum time between two lines."""


class ProgressLines:
    """Prints progress to standard error, at most every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Restart the clock, for a new operation."""
        self._started = time.monotonic()
        self._printed = self._started

    def say(self, text: str) -> None:
        """Print a line with the elapsed time, if a line is due."""
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS:
            print(f"{text} ({tqdm.format_interval(now - self._started)})", file=sys.stderr, flush=True)
            self._printed = now


class Progress(tqdm):
    """A progress bar on standard error, or `ProgressLines` if standard error is not a terminal.

    Args:
        iterable: items to iterate over; None if `update` is called instead.
        desc: description of the operation, such as "Writing shards".
        total: total number of items; by default, the length of `iterable`.
        unit: unit of the items, such as "samples", or "B" for bytes.
        shown: whether progress is printed.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        total: int | None = None,
        unit: str = "samples",
        shown: bool = True,
    ) -> None:
        bar = shown and is_terminal()
        of_bytes = unit == "B"
        spaced = unit if of_bytes else f" {unit}"
        super().__init__(iterable, desc, total, unit=spaced, unit_scale=of_bytes, disable=not bar)
        self._lines = ProgressLines() if shown and not bar else None
        self._what, self._unit, self._done = desc, unit, 0

    def __iter__(self) -> Iterator[Any]:
        """Yield the items, and count each as done."""
        if self._lines is None:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more items as done."""
        if self._lines is None:
            drawn: bool | None = super().update(n)
            return drawn
        self._done += int(n or 0)
        self._lines.say(f"{self._what}: {how_far(self._done, self.total, self._unit)}")
        return None


def how_far(done: int, total: int | None, unit: str = "batches") -> str:
    """Format progress, such as "512 of 2,000 samples"."""
    if unit == "B":
        counts = [tqdm.format_sizeof(count, "B") for count in (done, total) if count is not None]
        return " of ".join(counts)
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"


def is_terminal() -> bool:
    """Return whether standard error is a terminal with room for a bar.

    Terminals of `script` and `docker run -t` may have 0 columns.
    """
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # not a file, as in a notebook
        return True
