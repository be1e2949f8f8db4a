"""Progress and messages of the commands."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from ..audioclip import AudioCLIP
from ..weights.described import DOWNLOAD_SIZE, RELEASED, DescribedWeights, describe_weights, is_fetched
from .printing import escaped, say

_LINE_SECONDS = 30.0
# Of a terminal that does not know its size, such as those of `script` and `docker run -t`.
_SIZE = {"ncols": 80, "nrows": 24}


def open_weights(source: str | None) -> DescribedWeights:
    """Find the weights of a command, None for the released ones; say which they are and what limits them."""
    if source is None and not is_fetched(RELEASED):
        say(f"Downloading the weights {RELEASED} ({DOWNLOAD_SIZE}), this once; --weights takes others.")
    weights = describe_weights(source or RELEASED)
    folder = Path(source or "").expanduser()
    if source and weights.source not in (None, folder) and folder.is_dir():
        say(f"{source}: {weights.source}")
    if weights.limits:
        say(weights.limits)
    return weights


def loader(weights: DescribedWeights) -> Callable[[], AudioCLIP]:
    """Return a function that loads the weights once, and says so in a terminal, since it takes seconds."""

    @cache
    def load() -> AudioCLIP:
        if sys.stderr.isatty():
            tqdm.write(f"Loading the weights {escaped(weights.name)} ...", file=sys.stderr)  # above a bar
        return weights.load()

    return load


def warn_of_untrained(weights: DescribedWeights, labels: Sequence[str], template: str = "{}") -> bool:
    """Warn about labels that do not form training texts in this template; return whether there are any."""
    caveat = weights.caveat(labels, template)
    if caveat:
        say(escaped(caveat))  # on one line
    return caveat is not None


def name_unusable(wrong: Mapping[str, str], *, most: int | None = None) -> None:
    """List unusable files with the reasons, at most `most` of them."""
    for path, why in [*wrong.items()][:most]:
        say(f"{escaped(path)}: {escaped(why)}")
    if most is not None and len(wrong) > most:
        say(f"... and {len(wrong) - most} more unusable files")


class Progress:
    """Shows on standard error how many files are embedded: a bar, or a line every half minute in a log."""

    def __init__(self, *, total: int) -> None:
        self._bar = tqdm(
            desc="Embedding", total=total, unit=" files", **_size(), disable=None if total else True
        )
        self._done, self._total = 0, total
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """Count `count` more files as done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._bar.disable and now - self._printed >= _LINE_SECONDS:
            say(f"Embedding: {self._done:,} of {self._total:,} files ({now - self._started:.0f} s)")
            self._printed = now


def _size() -> dict[str, int]:
    """Return a size for bars in a terminal that does not know its own; {} for any other."""
    try:
        return {} if os.get_terminal_size(sys.stderr.fileno()).columns else _SIZE
    except (OSError, ValueError):  # not a terminal
        return {}
