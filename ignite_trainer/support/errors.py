"""Errors that a user can mend, and how near a misspelt name is to a right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from ignite_trainer.support.sanitize import visible

_LISTED = 20  # names; more are no help
_LONGEST = 4000  # characters of a problem, likewise


class ProtocolError(ValueError):
    """Something in a protocol, or in what it names, cannot work.

    Attributes:
        problems: every problem found, each a line that says where, what, what is allowed and what to do.
    """

    def __init__(self, problems: str | Iterable[str], *, source: str | None = None) -> None:
        """Collect `problems`; `source` names the file or command they were found in."""
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
    """A problem as a terminal can show it, whatever the file or the data it quotes."""
    problem = visible(problem)
    return problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]}... ({len(problem):,} characters)"


class SampleUnreadable(ValueError):
    """Of a sample what is read only when a transform asks for it cannot be: it counts as unreadable."""


class RunFailed(RuntimeError):
    """A run that started cannot go on; the message says what is kept and what to do."""


class RunStopped(KeyboardInterrupt):
    """A signal asked the run to stop, and it can go on from where it is.

    Attributes:
        signal: name of the signal.
        folder: of the run; None: no run was under way.
    """

    def __init__(self, signal: str, folder: Path | None = None) -> None:
        where = f"the run in {folder} has stopped, and can" if folder else "no run was under way; all can"
        super().__init__(f"{signal}: {where} be gone on with.")
        self.signal, self.folder = signal, folder


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Say which of the allowed names is nearest to `name`, or list them if none is near."""
    allowed = sorted(set(allowed))
    # First as it is written (torch.optim has both SGD and sgd), then whatever its case.
    folded = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6) or [
        folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    ]
    if near:
        return f'did you mean "{near[0]}"?'
    if len(allowed) > _LISTED:
        allowed = [*allowed[:_LISTED], f"and {len(allowed) - _LISTED} more"]
    return f"allowed: {', '.join(allowed)}." if allowed else "nothing is allowed here."


def first_line(reason: object) -> str:
    """What an error says, without the pages of advice that follow."""
    lines = str(reason).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(reason).__name__
