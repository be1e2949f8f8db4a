"""The typed protocol of an experiment.

The sections and keys of the published protocol files keep their names and meaning; `Task`, `Parameters`
and `Reporters` are ours. The content of an `args` object is checked later, against the signature of the
class that takes it (see `instantiate`).
"""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, WithJsonSchema, field_validator
from pydantic import JsonValue as Json

from ignite_trainer.api.affects import Affects
from ignite_trainer.protocol.setup_section import Faults, Flag, Positive, Precision, Section, Setup

__all__ = [
    "ClassSpec",
    "EvaluationSpec",
    "Faults",
    "LineSpec",
    "ParameterRule",
    "Precision",
    "Protocol",
    "PublishedResult",
    "ScheduleSpec",
    "Setup",
    "SplitArgument",
]

# Arguments of torch's schedulers for their length.
_LENGTHS = ("total_iters", "T_max", "total_steps")
_DOTTED = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+"


def _implies(these: dict[str, Any], those: dict[str, Any]) -> dict[str, Any]:
    """Make a JSON Schema: if an object has keys that match `these`, other keys must match `those`."""
    return {"if": {"properties": these, "required": list(these)}, "then": {"properties": those}}


class Visdom(Section):
    """Address of the dashboard."""

    host: str | None = Field(default=None, description="Host of the server; null: localhost.")
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = Field(
        default=None, description="Port; null: 8097."
    )
    env_path: str | None = Field(
        default=None, description="Folder of the server's sessions; null: ~/.visdom."
    )


class ClassSpec(Section):
    """Dotted path and keyword arguments of a class."""

    path: str = Field(
        alias="class", description="Dotted path of a class.", json_schema_extra={"pattern": f"^{_DOTTED}$"}
    )
    args: dict[str, Json] = Field(default={}, description="Keyword arguments of the class.")

    @field_validator("path")
    @classmethod
    def _is_dotted(cls, path: str) -> str:
        if not re.fullmatch(_DOTTED, path):
            raise ValueError("write the dotted path of a class, such as torch.optim.SGD")
        return path


class ScheduleSpec(ClassSpec):
    """A learning rate scheduler and its duration."""

    interval: Literal["epoch", "step"] = Field(
        default="epoch",
        description="Unit of scheduling: learning rates change every epoch or every optimizer step.",
    )
    lasts: Positive | Literal["rest"] | None = Field(
        default=None,
        description='Duration in intervals; "rest": until the end of training. Also the default for the '
        'arguments total_iters, T_max and total_steps. null: the scheduler\'s own duration, which is "rest" '
        "for WarmUpCosine.",
    )

    @field_validator("lasts", mode="before")
    @classmethod
    def _is_a_time(cls, value: object) -> object:
        number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000
        if value is None or value == "rest" or number:
            return value
        raise ValueError('write a number of intervals, 1 or more, or "rest"')

    def duration(self, scheduler: type) -> int | Literal["rest"] | None:
        """Return `lasts` or, if it is null, the default of `scheduler`, which is its attribute `lasts`."""
        return getattr(scheduler, "lasts", None) if self.lasts is None else self.lasts

    def lengths(self, scheduler: type, *, length: int | None = 1) -> dict[str, Any]:
        """Return the length arguments that `scheduler` takes and `args` lacks; empty without a duration."""
        if self.duration(scheduler) is None:
            return {}
        taken = inspect.signature(scheduler).parameters
        return {name: length for name in _LENGTHS if name in taken and name not in self.args}


class SplitArgument(Section):
    """The data set's argument that selects the training or the held-out split."""

    key: str = Field(description="Name of the argument.")
    yes: Json = Field(description="Value of the argument for the training split.")
    no: Json = Field(description="Value of the argument for the held-out split.")


class TransformSpec(ClassSpec):
    """One transform of samples."""

    train: Flag = Field(default=True, description="Apply to the training split.")
    test: Flag = Field(default=True, description="Apply to the held-out split.")
    field: str | None = Field(
        default=None, description="Field of the sample to transform; null: the first field."
    )


class LineSpec(ClassSpec):
    """One metric, drawn as a line for each split."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                _implies({"test": {"const": False}}, {"is_checkpoint": {"const": False}}),
                _implies({"update_rate": {"const": "iteration"}}, {"is_checkpoint": {"const": False}}),
            ]
        }
    )
    line_label: str = Field(min_length=1, description="Name of the metric in logs and legends.")
    is_checkpoint: Flag = Field(
        default=False, description="Keep the checkpoints with the best values of this metric."
    )
    best: Literal["max", "min"] = Field(
        default="max", description="Whether higher or lower values are better."
    )
    train: Flag = Field(default=True, description="Compute on the training split.")
    test: Flag = Field(default=True, description="Compute on the held-out split.")
    update_rate: Literal["epoch", "iteration"] = Field(
        default="epoch", description='"iteration": compute over the training steps in the epoch so far.'
    )

    @property
    def file_name(self) -> str:
        """The label as part of a file name: "Val. Acc." becomes val-acc."""
        return re.sub(r"\W+", "-", self.line_label).strip("-").lower()


class WindowSpec(Section):
    """One chart."""

    window_name: str | None = Field(
        default=None, description="Title of the chart; null: the key of this object."
    )
    x_label: str = Field(default="#Epochs", description="Label of the horizontal axis.")
    y_label: str = Field(default="", description="Label of the vertical axis.")
    width: Positive = Field(default=1890, description="Width on the dashboard, pixels.")
    height: Positive = Field(default=416, description="Height on the dashboard, pixels.")
    lines: list[LineSpec] = Field(description="Metrics drawn in the chart.")


class EvaluationSpec(ClassSpec):
    """A measurement on the held-out split in addition to the metrics."""

    every: Positive | None = Field(
        default=None,
        description="Number of epochs between measurements; null: measure only after the last epoch.",
    )


class PublishedResult(Section):
    """A published result for certain weights, with its source."""

    dataset: str = Field(description="Name of the whole data set.")
    weights: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="sha256 of the file with the initial weights."
    )
    name: str | None = Field(
        default=None, description="Name of these weights, for tables; null: the beginning of their sha256."
    )
    setting: str = Field(description='Setting of the experiment, as in the table, such as "trained".')
    metric: str | None = Field(
        default=None, description="Metric, a line_label; null: the metric that the table shows."
    )
    value: float = Field(description="Value in the metric's unit, such as 0.97 for an accuracy of 97 %.")
    decimals: Annotated[int, Field(strict=True, ge=0, le=6)] | None = Field(
        default=None,
        description="Number of decimals in the source, in per cent if the metric is between 0 and 1; null: "
        "two in per cent, otherwise four.",
    )
    source: str | None = Field(
        default=None, description="Source of the value, such as a paper and its table."
    )
    measured_by: str | None = Field(
        default=None,
        description="Name of others who measured this value for the weights; it is shown in a separate row, "
        "not next to our result. null: the value belongs to the publication of the weights.",
    )


class TableEntry(Section):
    """Presentation of this experiment in the table of all results."""

    setting: str | None = Field(
        default=None,
        description='Setting, such as "zero-shot"; null: "trained", or "evaluated" after 0 epochs.',
    )
    metric: str | None = Field(
        default=None, description="Metric to show, a line_label; null: the first metric with is_checkpoint."
    )
    listed: Flag = Field(
        default=True, description="List this experiment's runs; set it to false if only Evaluations matter."
    )
    published: list[PublishedResult] = Field(default=[], description="Published results to compare with.")


class ParameterRule(Section):
    """Treatment of the parameters whose full name matches, unless an earlier rule matches."""

    model_config = ConfigDict(
        json_schema_extra=_implies(
            {"train": {"const": False}},
            {
                "args": {"maxProperties": 0},
                "depth_decay": {"const": None},
                "weight_decay_of": {"const": "all"},
                "max_gradient_norm": {"const": None},
            },
        )
    )
    match: str = Field(
        description="Regular expression for the full name of a parameter.",
        json_schema_extra={"format": "regex"},
    )
    train: Flag = Field(
        default=True, description="Train these parameters, in optimizer groups separate from other rules'."
    )
    mode: Literal["train", "eval"] | None = Field(
        default=None,
        description='"eval": keep the modules of these parameters in eval mode; null: "eval" unless '
        "they are trained.",
    )
    args: dict[str, Json] = Field(default={}, description="Optimizer arguments for these parameters.")
    depth_decay: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        default=None,
        description="Layer-wise decay of the learning rate (arXiv 2003.10555, 2106.08254): d layers below "
        "the last one of its tower, a parameter has the rate times depth_decay to the power of d. The model "
        "declares the order of its layers. null: the same rate for all layers.",
    )
    weight_decay_of: Literal["all", "matrices"] = Field(
        default="all",
        description='Parameters with weight decay. "matrices": only those with two or more axes, so that '
        "biases, norms and scales have none, as in timm and open_clip.",
    )
    max_gradient_norm: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Maximum norm of the gradient of this rule's parameters together (arXiv 1211.5063); a "
        "larger gradient is scaled down in each optimizer step, after accumulation and averaging over "
        "devices, and after modules have changed their gradients. null: no limit.",
    )

    @field_validator("args", "depth_decay", "weight_decay_of", "max_gradient_norm")
    @classmethod
    def _is_trained(cls, value: Any, known: ValidationInfo) -> Any:
        if known.data.get("train") is False and value != cls.model_fields[str(known.field_name)].default:
            raise ValueError(
                f"parameters that are not trained have no optimizer arguments; remove {known.field_name}"
            )
        return value

    @field_validator("match")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # patterns whose meaning changes in future versions of Python
                re.compile(pattern)
        except (re.error, Warning) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern

    @property
    def keeps_eval_mode(self) -> bool:
        """True if modules that hold only these parameters stay in eval mode."""
        return (self.mode or ("train" if self.train else "eval")) == "eval"


# Tags of the two alternatives. They appear in the locations of errors, but are not keys.
ONE, SEVERAL = "(one)", "(several)"
OneOrSeveral = Annotated[
    Annotated[ScheduleSpec, Tag(ONE)] | Annotated[list[ScheduleSpec], Tag(SEVERAL), Field(min_length=1)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
]
_TRAINS: dict[str, Any] = {
    "properties": {"epochs": {"type": "integer", "minimum": 1}},
    "required": ["epochs"],
}


class Protocol(Section):
    """A complete experiment."""

    model_config = ConfigDict(
        alias_generator=str.capitalize,
        json_schema_extra={
            "if": {"properties": {"Setup": _TRAINS}, "required": ["Setup"]},
            "then": {"required": ["Optimizer"], "properties": {"Optimizer": {"type": "object"}}},
        },
    )

    schema_path: Annotated[str | None, Affects.HANDLING] = Field(
        default=None, alias="$schema", description="JSON Schema for editors."
    )
    extends: Annotated[None, WithJsonSchema({"type": "string"})] = Field(
        default=None,
        alias="extends",
        exclude=True,
        description="Path of a base protocol, relative to this file. This file then lists only the "
        "differences: objects are merged (or replaced if the class differs), lists and values are replaced, "
        "and null removes a key, unless null is a valid value for it.",
    )
    visdom: Annotated[Visdom, Affects.HANDLING] = Field(
        default_factory=Visdom, description="Address of the dashboard."
    )
    setup: Setup = Field(description="Settings of a run.")
    faults: Annotated[Faults, Affects.HANDLING] = Field(
        default_factory=Faults, description="Responses to faults during a run."
    )
    model: ClassSpec = Field(description="Model, a torch.nn.Module.")
    task: ClassSpec = Field(
        description="Task that computes the loss and the scores. Task, Parameters and Yardsticks may "
        "be omitted for models in defaults.json."
    )
    parameters: Annotated[list[ParameterRule], Affects.TRAINING] = Field(
        default_factory=lambda: [ParameterRule(match=".*")],
        description="Rules that say which parameters are trained, and in which optimizer group. The first "
        "rule that matches a parameter's name applies.",
    )
    optimizer: Annotated[ClassSpec | None, Affects.TRAINING] = Field(
        default=None, description="Optimizer, a torch.optim.Optimizer; required unless epochs is 0."
    )
    scheduler: Annotated[OneOrSeveral | None, Affects.TRAINING] = Field(
        default=None,
        description="Learning rate scheduler, or a list of schedulers that run one after another.",
    )
    dataset: ClassSpec = Field(
        description="Data set for both splits; the trainer supplies the argument that selects a split."
    )
    transforms: list[TransformSpec] = Field(
        default=[], description="Transforms applied to a sample before the model sees it, in order."
    )
    metrics: Annotated[dict[str, WindowSpec], Affects.RUN] = Field(
        default={}, description="Charts by name; each chart has lines, and each line is a metric."
    )
    evaluations: Annotated[dict[str, EvaluationSpec], Affects.RUN] = Field(
        default={}, description="Additional measurements on the held-out split, by name."
    )
    sweep: Annotated[dict[str, Annotated[list[Json], Field(min_length=1)]], Affects.SWEEP] = Field(
        default={}, description="Values of keys such as Dataset.args.fold; every combination is a run."
    )
    table: Annotated[TableEntry, Affects.SWEEP] = Field(
        default_factory=TableEntry, description="Presentation of this experiment in the table of all results."
    )
    yardsticks: Annotated[dict[str, ClassSpec], Affects.SWEEP] = Field(
        default={},
        description="Speed baselines that --benchmark compares with this protocol, by name; each is a class.",
    )
    reporters: Annotated[list[ClassSpec] | None, Affects.HANDLING] = Field(
        default=None,
        description="Outputs of a run; null: console, JSON lines, learning curve, report and Visdom.",
    )

    @field_validator("extends", mode="before")
    @classmethod
    def _is_whole(cls, base: object) -> None:
        if base is not None:
            raise ValueError("only protocol files can extend others; copy the content of that file here")

    @property
    def schedules(self) -> dict[str, ScheduleSpec]:
        """The schedulers in order, by JSON path."""
        if isinstance(self.scheduler, list):
            return {f"Scheduler[{index}]": spec for index, spec in enumerate(self.scheduler)}
        return {"Scheduler": self.scheduler} if self.scheduler else {}

    @property
    def schedules_steps(self) -> bool:
        """True if learning rates change after each optimizer step rather than each epoch."""
        return any(spec.interval == "step" for spec in self.schedules.values())

    @property
    def lines(self) -> dict[str, LineSpec]:
        """The metrics by JSON path."""
        return {
            f"Metrics.{name}.lines[{index}]": line
            for name, window in self.metrics.items()
            for index, line in enumerate(window.lines)
        }

    def to_json(self) -> dict[str, Any]:
        """Return the protocol as JSON types, which validate to an equal protocol."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False)
