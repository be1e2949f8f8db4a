"""Errors that a user can correct, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

from ignite_trainer.support.formatting import visible

_MAX_LISTED = 20  # names
_MAX_CHARACTERS = 4000  # in a message


class ProtocolError(ValueError):
    """A protocol, or something that it names, is invalid.

    Attributes:
        problems: messages that say where, what was given, what is allowed and what to do.
    """

    def __init__(self, problems: str | Iterable[str], *, source: str | None = None) -> None:
        """Collect `problems`; `source` is the file or flag that contains them."""
        found = [problems] if isinstance(problems, str) else list(problems)
        self.problems = [_readable(problem) for problem in found]
        self.source = source
        heading = f"{source}: " if source else ""
        if len(self.problems) == 1:
            super().__init__(heading + self.problems[0])
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            super().__init__(f"{heading}{len(self.problems)} problems:{lines}")


def _readable(problem: str) -> str:
    """Make a message safe to print and limit its length, whatever it quotes."""
    problem = visible(problem)
    if len(problem) <= _MAX_CHARACTERS:
        return problem
    return f"{problem[:_MAX_CHARACTERS]}... ({len(problem):,} characters)"


class SampleUnreadable(ValueError):
    """A sample, or a part of it that is read on demand, cannot be read; the whole sample is unreadable."""


class RunFailed(RuntimeError):
    """A run cannot continue; the message says what is kept and what to do."""


class RunStopped(KeyboardInterrupt):
    """A signal stopped the run, which can be resumed.

    Attributes:
        signal: name of the signal.
        folder: folder of the run; None if no run was in progress.
    """

    def __init__(self, signal: str, folder: Path | None = None) -> None:
        what = f"the run in {folder} has stopped" if folder else "no run was in progress"
        super().__init__(f"{signal}: {what}.")
        self.signal = signal
        self.folder = folder


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Suggest the allowed name closest to `name`, or list the allowed names if no name is close."""
    allowed = sorted(set(allowed))
    # Prefer matches in the same case (torch.optim has both SGD and sgd).
    folded = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6) or [
        folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    ]
    if near:
        return f'did you mean "{near[0]}"?'
    if len(allowed) > _MAX_LISTED:
        allowed = [*allowed[:_MAX_LISTED], f"and {len(allowed) - _MAX_LISTED} more"]
    return f"allowed: {', '.join(allowed)}." if allowed else "nothing is allowed here."


def described(error: Exception) -> str:
    """Return an error's message; if it is not meant for users, also its type and the line of code."""
    message = str(error).strip()
    if message and isinstance(error, ValueError | OSError):
        return message
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


def first_line(reason: object) -> str:
    """Return the first line of an error's message."""
    lines = str(reason).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(reason).__name__
