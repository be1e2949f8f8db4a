"""Validation of a saved state before any of it is used, as the file may come from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from ignite_trainer.api.reporter import Best
from ignite_trainer.support.errors import ProtocolError

BEST_KEPT = 3
# Matches plain file names only, as files that match are removed once they are no longer among the best.
BEST_FILE = re.compile(r"best_[^/\\\0]*_epoch-(\d+)_-?(?:\d+\.\d+|inf|nan)\.pt")


@dataclass(frozen=True, kw_only=True)
class Position:
    """Position in a run.

    Attributes:
        epoch: epoch of the last step, from 1.
        iteration: number of steps since the start of training, over all epochs.
        complete: whether the epoch has been trained and evaluated, and its best files written.
    """

    epoch: Annotated[int, Field(strict=True, ge=1)]
    iteration: Annotated[int, Field(strict=True, ge=0)]
    complete: Annotated[bool, Field(strict=True)] = False

    @property
    def file_name(self) -> str:
        """File name of a state saved at this position."""
        return f"last_epoch-{self.epoch}{'' if self.complete else f'_step-{self.iteration}'}.pt"


class StateContent(BaseModel):
    """The entries that every state has; the parts of a run validate their own entries.

    Attributes:
        best: best epochs by the metric's label, best first; their checkpoints are file names.
        frozen_weights: sha256 of the file of frozen weights, or None without such a file.
    """

    position: Position
    best: dict[str, list[Best]]
    model: dict[str, Any]
    random: dict[str, Any]
    random_of_other_processes: list[dict[str, Any]] = []
    frozen_weights: str | None = None

    @field_validator("best", mode="before")
    @classmethod
    def _complete(cls, best: Any) -> Any:
        """Complete the entries for `Best`: a state has labels as keys, and checkpoints under `file`."""
        return {
            label: [{"label": label, "checkpoint": entry["file"], **entry} for entry in kept]
            for label, kept in best.items()
        }

    @field_validator("best")
    @classmethod
    def _require_plain_names(cls, best: dict[str, list[Best]]) -> dict[str, list[Best]]:
        for file in (entry.checkpoint for kept in best.values() for entry in kept):
            if file and not BEST_FILE.fullmatch(str(file)):
                raise ValueError(f'"{file}" is not a valid name for a file of best weights')
        return best

    @property
    def processes(self) -> int:
        """Number of processes in the run that saved the state."""
        return 1 + len(self.random_of_other_processes)


def checked(content: Any, path: Path, parts: Iterable[str]) -> StateContent:
    """Validate the content of a state file, which must have an entry for each of the `parts`.

    Raises:
        ProtocolError: The content is invalid; the message lists all problems.
    """
    try:
        state = StateContent.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    else:
        problems = [f"{name}: Field required" for name in parts if name not in content]
        if state.position.file_name != path.name:
            problems.append(f"position: the file must be named {state.position.file_name}")
        if not problems:
            return state
    raise ProtocolError(
        f"State {path} is not a valid state of this version ({'; '.join(problems)}). "
        "Do not use it; start a new run without --resume."
    )
