"""The content of a saved state, checked before anything of it is used, as it may come from elsewhere."""

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
# A plain file name: files with these names are removed once they are no longer among the best.
BEST_FILE = re.compile(r"best_[^/\\\0]*_epoch-(\d+)_-?(?:\d+\.\d+|inf|nan)\.pt")


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: epoch of the last step, from 1.
        iteration: steps since the start of training, over all epochs.
        complete: True once the epoch is trained, evaluated and its checkpoints are written.
    """

    epoch: Annotated[int, Field(strict=True, ge=1)]
    iteration: Annotated[int, Field(strict=True, ge=0)]
    complete: Annotated[bool, Field(strict=True)] = False

    @property
    def file_name(self) -> str:
        """File name of a state saved at this position."""
        return f"last_epoch-{self.epoch}{'' if self.complete else f'_step-{self.iteration}'}.pt"


class StateContent(BaseModel):
    """The entries that every state has; the parts of a run check their own.

    Attributes:
        best: best epochs by label, the best one first; checkpoints are file names.
        frozen_weights: sha256 of the file with the frozen weights, if there are any.
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
        """Add what a state holds otherwise: labels, as keys, and checkpoints, as `file`."""
        return {
            label: [{"label": label, "checkpoint": entry["file"], **entry} for entry in kept]
            for label, kept in best.items()
        }

    @field_validator("best")
    @classmethod
    def _require_plain_names(cls, best: dict[str, list[Best]]) -> dict[str, list[Best]]:
        for file in (entry.checkpoint for kept in best.values() for entry in kept):
            if file and not BEST_FILE.fullmatch(str(file)):
                raise ValueError(f'"{file}" is not the name of a file of best weights')
        return best

    @property
    def processes(self) -> int:
        """Number of processes that saved the state together."""
        return 1 + len(self.random_of_other_processes)


def checked(content: Any, path: Path, parts: Iterable[str]) -> StateContent:
    """Check the content of a state file, which must have all `parts`.

    Raises:
        ProtocolError: lists everything that is wrong.
    """
    try:
        state = StateContent.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    else:
        problems = [f"{name}: Field required" for name in parts if name not in content]
        if state.position.file_name != path.name:
            problems.append(f"position: its file would be {state.position.file_name}")
        if not problems:
            return state
    raise ProtocolError(
        f"The checkpoint {path} holds what no run of this version saves ({'; '.join(problems)}). "
        "Do not use it; start a new run without --resume."
    )
