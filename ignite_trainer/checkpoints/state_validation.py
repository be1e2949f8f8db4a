"""What a saved state must hold before anything of it is used: it may come from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ignite_trainer.support.errors import ProtocolError

BEST_KEPT = 3
# A plain name, which leads to no other folder: files so named are removed when better ones are there.
BEST_FILE = re.compile(r"best_[^/\\\0]*_epoch-(\d+)_-?(?:\d+\.\d+|inf|nan)\.pt")

_Count = Annotated[int, Field(strict=True, ge=0)]
_Positive = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: that of the last step, from 1.
        iteration: steps since the start of training, over all epochs.
        complete: whether the epoch is trained and evaluated and its checkpoints are kept; else what is
            missing of it follows.
    """

    epoch: _Positive
    iteration: _Count
    complete: Annotated[bool, Field(strict=True)] = False

    @property
    def file_name(self) -> str:
        """Name of the file of a state at this position."""
        return f"last_epoch-{self.epoch}{'' if self.complete else f'_step-{self.iteration}'}.pt"


class BestEntry(BaseModel):
    """One of the best epochs by a metric, as a state holds it."""

    model_config = ConfigDict(extra="forbid")

    value: Annotated[float, Field(strict=True)]
    epoch: _Count
    file: str | None

    @field_validator("file")
    @classmethod
    def _is_plain(cls, name: str | None) -> str | None:
        if name is not None and not BEST_FILE.fullmatch(name):
            raise ValueError(f'"{name}" is no name of a file of best weights.')
        return name


class StateContent(BaseModel):
    """What is known of every state; its other parts are checked by those that load them."""

    position: Position
    best: dict[str, list[BestEntry]]
    model: dict[str, Any]
    random: dict[str, Any]
    random_of_other_processes: list[dict[str, Any]] = []
    frozen_weights: str | None = None

    @property
    def processes(self) -> int:
        """How many processes saved it together."""
        return 1 + len(self.random_of_other_processes)


def checked(content: Any, path: Path, parts: Iterable[str]) -> StateContent:
    """Check what the file of a state held, which is to have all `parts`.

    Raises:
        ProtocolError: with the file and all that is wrong.
    """
    try:
        state = StateContent.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    else:
        problems = [f"{name}: Field required" for name in parts if name not in content]
        if state.position.file_name != path.name:
            problems.append(f"position: it is that of {state.position.file_name}")
        if not problems:
            return state
    raise ProtocolError(
        f"The checkpoint {path} holds what no run of this version saves ({'; '.join(problems)}). "
        "Do not use it; start a new run without --resume."
    )
