"""The typed protocol: what an experiment is. Reading one and checking it whole is validation.py's part.

The sections and keys of the published protocol files keep their names and meaning; `Task`, `Parameters`
and `Reporters` are ours. Whatever lies in an `args` object is checked later, against the signature of the
class that takes it (see `instantiate`).
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, WithJsonSchema, field_validator
from pydantic import JsonValue as Json

from ignite_trainer.api.affects import Affects
from ignite_trainer.protocol.section import ClassSpec, Flag, Positive, ScheduleSpec, Section, implies
from ignite_trainer.protocol.setup_section import Faults, Precision, Setup

__all__ = [
    "ClassSpec",
    "EvaluationSpec",
    "Faults",
    "LineSpec",
    "ParameterRule",
    "Precision",
    "Protocol",
    "PublishedFigure",
    "ScheduleSpec",
    "Setup",
    "SplitArgument",
]


class Visdom(Section):
    """Where the dashboard is."""

    host: str | None = Field(default=None, description="Host of the server; null: localhost.")
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = Field(
        default=None, description="Port; null: 8097."
    )
    env_path: str | None = Field(default=None, description="Folder of its sessions; null: ~/.visdom.")


class SplitArgument(Section):
    """The data set's argument that tells its training split from its held-out one."""

    key: str = Field(description="Name of the argument.")
    yes: Json = Field(description="Its value for the training split.")
    no: Json = Field(description="Its value for the held-out split.")


class TransformSpec(ClassSpec):
    """One step of the augmentation."""

    train: Flag = Field(default=True, description="Applied to the training split.")
    test: Flag = Field(default=True, description="Applied to the held-out split.")
    field: str | None = Field(default=None, description="Field of the sample it acts on; null: the first.")


class LineSpec(ClassSpec):
    """One metric, drawn as one line for each split it is computed on."""

    # Checkpoints are chosen on the held-out split after an epoch; see validation.
    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                implies({"test": {"const": False}}, {"is_checkpoint": {"const": False}}),
                implies({"update_rate": {"const": "iteration"}}, {"is_checkpoint": {"const": False}}),
            ]
        }
    )
    line_label: str = Field(min_length=1, description="Name of the metric in logs and legends.")
    is_checkpoint: Flag = Field(default=False, description="Keep the best checkpoints by this metric.")
    best: Literal["max", "min"] = Field(default="max", description="Which end of the metric is the better.")
    train: Flag = Field(default=True, description="Computed on the training split.")
    test: Flag = Field(default=True, description="Computed on the held-out split.")
    update_rate: Literal["epoch", "iteration"] = Field(
        default="epoch", description='"iteration": over the training steps of the epoch so far.'
    )

    @property
    def file_name(self) -> str:
        """The label as part of a file's name: "Val. Acc." is val-acc."""
        return re.sub(r"\W+", "-", self.line_label).strip("-").lower()


class WindowSpec(Section):
    """One chart."""

    window_name: str | None = Field(default=None, description="Title; null: the key of this object.")
    x_label: str = Field(default="#Epochs", description="Label of the horizontal axis.")
    y_label: str = Field(default="", description="Label of the vertical axis.")
    width: Positive = Field(default=1890, description="Of the dashboard's chart, pixels.")
    height: Positive = Field(default=416, description="Of the dashboard's chart, pixels.")
    lines: list[LineSpec] = Field(description="The metrics drawn in it.")


class EvaluationSpec(ClassSpec):
    """Something measured on the held-out split besides the metrics."""

    every: Positive | None = Field(
        default=None, description="Measured every so many epochs; null: after the last one only."
    )


class PublishedFigure(Section):
    """A figure that somebody published, to be shown beside ours."""

    dataset: str = Field(description="The whole data set it was measured on.")
    weights: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="sha256 of the file of weights it was reached from."
    )
    setting: str = Field(description='How the data set was used, as the table has it: "trained", say.')
    metric: str | None = Field(default=None, description="A line_label; null: whichever the table shows.")
    value: float = Field(description="In the metric's unit: an accuracy lies in 0..1.")


class TableEntry(Section):
    """How the table of all results shows this experiment."""

    setting: str | None = Field(
        default=None, description='Such as "zero-shot"; null: "trained", or "evaluated" after 0 epochs.'
    )
    metric: str | None = Field(default=None, description="A line_label; null: the first one of checkpoints.")
    listed: Flag = Field(
        default=True, description="false: runs of it are left out, such as where only Evaluations count."
    )
    published: list[PublishedFigure] = Field(default=[], description="What ours is compared with.")


class ParameterRule(Section):
    """What happens to the parameters whose whole name matches, unless an earlier rule took them."""

    model_config = ConfigDict(
        json_schema_extra=implies({"train": {"const": False}}, {"args": {"maxProperties": 0}})
    )
    match: str = Field(
        description="Regular expression over the whole name of a parameter.",
        json_schema_extra={"format": "regex"},
    )
    train: Flag = Field(default=True, description="Whether the optimizer gets them: one group a rule.")
    mode: Literal["train", "eval"] | None = Field(
        default=None,
        description='"eval" keeps modules of such parameters in eval mode; null: "eval" if not trained.',
    )
    args: dict[str, Json] = Field(default={}, description="Optimizer arguments of this group.")

    @field_validator("args")
    @classmethod
    def _reach_the_optimizer(cls, args: dict[str, Json], known: ValidationInfo) -> dict[str, Json]:
        if args and known.data.get("train") is False:
            raise ValueError("the optimizer does not get parameters that are not trained; remove args")
        return args

    @field_validator("match")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what future versions of Python read in another way
                re.compile(pattern)
        except (re.error, Warning) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern

    @property
    def keeps_eval_mode(self) -> bool:
        """Whether modules that hold only such parameters stay in eval mode."""
        return (self.mode or ("train" if self.train else "eval")) == "eval"


def _number(value: Any) -> str:
    return SEVERAL if isinstance(value, list) else ONE


# Marks in the locations of errors, which are no keys.
ONE, SEVERAL = "(one)", "(several)"
OneOrSeveral = Annotated[
    Annotated[ScheduleSpec, Tag(ONE)] | Annotated[list[ScheduleSpec], Tag(SEVERAL), Field(min_length=1)],
    Discriminator(_number),
]


_TRAINS: dict[str, Any] = {
    "properties": {"epochs": {"type": "integer", "minimum": 1}},
    "required": ["epochs"],
}


class Protocol(Section):
    """A whole experiment."""

    # A section affects the result unless its annotation says otherwise.

    model_config = ConfigDict(
        alias_generator=str.capitalize,
        json_schema_extra={
            "if": {"properties": {"Setup": _TRAINS}, "required": ["Setup"]},
            "then": {"required": ["Optimizer"], "properties": {"Optimizer": {"type": "object"}}},
        },
    )

    schema_path: Annotated[str | None, Affects.HANDLING] = Field(
        default=None, alias="$schema", description="JSON Schema, for editors."
    )
    extends: Annotated[None, WithJsonSchema({"type": "string"})] = Field(
        default=None,
        alias="extends",
        exclude=True,  # of the file, which was put over the one it names before it came here
        description="Another protocol, relative to this file, which then says only what differs: objects are "
        "merged (of another class: replaced), lists and values replaced; null takes away what stood there, "
        "or is the value where a key takes null.",
    )
    visdom: Annotated[Visdom, Affects.HANDLING] = Field(
        default_factory=Visdom, description="Where the dashboard is."
    )
    setup: Setup = Field(description="How a run is carried out.")
    faults: Annotated[Faults, Affects.HANDLING] = Field(
        default_factory=Faults, description="What a run does about what goes wrong on its way."
    )
    model: ClassSpec = Field(description="The network, a torch.nn.Module.")
    task: ClassSpec = Field(
        description="What the model is trained for: loss and scores. Of models that defaults.json knows it "
        "can be left out, as Parameters and Yardsticks can."
    )
    parameters: Annotated[list[ParameterRule], Affects.TRAINING] = Field(
        default_factory=lambda: [ParameterRule(match=".*")],
        description="What is trained, in which group of the optimizer: for every parameter of the model the "
        "first rule counts that matches its name.",
    )
    optimizer: Annotated[ClassSpec | None, Affects.TRAINING] = Field(
        default=None, description="A torch.optim.Optimizer; needed where there are epochs."
    )
    scheduler: Annotated[OneOrSeveral | None, Affects.TRAINING] = Field(
        default=None,
        description="How learning rates change: one scheduler, or a list of them, each in its turn.",
    )
    dataset: ClassSpec = Field(
        description="Both splits. Of its arguments the trainer supplies the one that tells them apart."
    )
    transforms: list[TransformSpec] = Field(
        default=[], description="What happens to a sample before the model sees it, in order."
    )
    metrics: Annotated[dict[str, WindowSpec], Affects.RUN] = Field(
        default={}, description="What is measured, by charts: each has lines, and each line is a metric."
    )
    evaluations: Annotated[dict[str, EvaluationSpec], Affects.RUN] = Field(
        default={}, description="What else is measured on the held-out split, by name."
    )
    sweep: Annotated[dict[str, Annotated[list[Json], Field(min_length=1)]], Affects.SWEEP] = Field(
        default={}, description="Values of keys such as Dataset.args.fold: one run for every combination."
    )
    table: Annotated[TableEntry, Affects.SWEEP] = Field(
        default_factory=TableEntry, description="How the table of all results shows this experiment."
    )
    yardsticks: Annotated[dict[str, ClassSpec], Affects.SWEEP] = Field(
        default={}, description="What --benchmark compares the protocol's speed with, by name."
    )
    reporters: Annotated[list[ClassSpec] | None, Affects.HANDLING] = Field(
        default=None,
        description="Who writes down what happens; null: console, JSON lines, curve, report, Visdom.",
    )

    @field_validator("extends", mode="before")
    @classmethod
    def _is_whole(cls, base: object) -> None:
        if base is not None:
            raise ValueError("this has to be a whole protocol; write here what that file says")

    @property
    def schedules(self) -> dict[str, ScheduleSpec]:
        """The schedulers in their turn, by JSON path."""
        if isinstance(self.scheduler, list):
            return {f"Scheduler[{index}]": spec for index, spec in enumerate(self.scheduler)}
        return {"Scheduler": self.scheduler} if self.scheduler else {}

    @property
    def schedules_steps(self) -> bool:
        """Return whether learning rates change after each optimizer step rather than each epoch."""
        return any(spec.interval == "step" for spec in self.schedules.values())

    @property
    def lines(self) -> dict[str, LineSpec]:
        """Every metric by its JSON path."""
        return {
            f"Metrics.{name}.lines[{index}]": line
            for name, window in self.metrics.items()
            for index, line in enumerate(window.lines)
        }

    def to_json(self) -> dict[str, Any]:
        """The protocol as JSON types; reading it again gives an equal protocol."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False)
