"""What all sections of a protocol are made of: objects of fixed keys, classes by name, numbers in range."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic import JsonValue as Json

from ignite_trainer.api.affects import Affects

# Strict: `true` is no number, and "no" is no boolean.
Positive = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
NonNegative = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Flag = Annotated[bool, Field(strict=True)]

# The arguments by which torch's schedulers take their length.
_LENGTHS = ("total_iters", "T_max", "total_steps")
_DOTTED = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+"


class Section(BaseModel):
    """A JSON object of fixed keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True)

    @classmethod
    def affects(cls) -> dict[str, Affects]:
        """Return what each key affects: what its annotation says, or else the result."""
        return {
            field.alias or name: next(
                (mark for mark in field.metadata if isinstance(mark, Affects)), Affects.RESULT
            )
            for name, field in cls.model_fields.items()
        }


class ClassSpec(Section):
    """A class by dotted path, and its keyword arguments."""

    path: str = Field(
        alias="class", description="Dotted path of a class.", json_schema_extra={"pattern": f"^{_DOTTED}$"}
    )
    args: dict[str, Json] = Field(default={}, description="Its keyword arguments.")

    @field_validator("path")
    @classmethod
    def _is_dotted(cls, path: str) -> str:
        if not re.fullmatch(_DOTTED, path):
            raise ValueError("write the dotted path of a class, such as torch.optim.SGD")
        return path


class ScheduleSpec(ClassSpec):
    """A scheduler of learning rates, and how long it has its turn."""

    interval: Literal["epoch", "step"] = Field(
        default="epoch", description="After what the rates change: an epoch, or a step of the optimizer."
    )
    lasts: Positive | Literal["rest"] | None = Field(
        default=None,
        description='Its turn, in intervals; "rest": until the end of training. An argument total_iters, '
        "T_max or total_steps that is left out is as long. null: it says itself.",
    )

    @field_validator("lasts", mode="before")
    @classmethod
    def _is_a_time(cls, value: object) -> object:
        number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000
        if value is None or value == "rest" or number:
            return value
        raise ValueError('write a number of intervals, 1 or more, or "rest"')

    def lengths(self, scheduler: type, *, length: int | None = 1) -> dict[str, Any]:
        """Return the length arguments that `scheduler` takes and `args` lacks; none unless `lasts` is set."""
        if self.lasts is None:
            return {}
        taken = inspect.signature(scheduler).parameters
        return {name: length for name in _LENGTHS if name in taken and name not in self.args}


def implies(these: dict[str, Any], those: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema: an object whose keys are there and as `these` say has others as `those` say."""
    return {"if": {"properties": these, "required": list(these)}, "then": {"properties": those}}
