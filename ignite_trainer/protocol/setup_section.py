"""The protocol's `Setup` and `Faults`: how a run is carried out, and what it does about what goes wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ignite_trainer.api.affects import Affects
from ignite_trainer.protocol.section import Flag, NonNegative, Positive, Section

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Setup(Section):
    """How a run is carried out."""

    # A key affects the result unless its annotation says otherwise.
    name: Annotated[str, Affects.FORM] = Field(
        min_length=1, max_length=100, description="Name of the experiment: the folder of its runs."
    )
    suffix: Annotated[str | None, Affects.FORM] = Field(
        default=None, max_length=60, description="Added to the name of the run."
    )
    batch_train: Annotated[Positive, Affects.TRAINING] = Field(
        description="Training batch size, of one device unless batch_of says else."
    )
    batch_of: Literal["device", "all"] = Field(
        default="device",
        description='What batch sizes are of where several devices train. "device": of each; learning rates '
        'are multiplied by their number. "all": of all together; a run reaches the same on any number.',
    )
    batch_test: Annotated[Positive | None, Affects.SWEEP] = Field(
        default=None, description="Evaluation batch size; null: batch_train."
    )
    workers_train: Annotated[NonNegative, Affects.HANDLING] = Field(
        default=0,
        description="Processes that load samples, at most one a processor, where they are loaded one by one.",
    )
    workers_test: Annotated[NonNegative, Affects.HANDLING] = Field(
        default=0, description="The same, in evaluation."
    )
    epochs: NonNegative = Field(description="Passes over the training split; 0 evaluates and stops.")
    log_interval: Annotated[Positive, Affects.HANDLING] = Field(
        default=10,
        description="Steps between two entries of the log; the last step of each epoch has one, too.",
    )
    saved_models_path: Annotated[str, Affects.HANDLING] = Field(
        description="Root of all results; a run has a folder of its own in it."
    )
    skip_train_evaluation: Annotated[Flag, Affects.FORM] = Field(
        default=False, description="Evaluate the held-out split only."
    )
    seed: Annotated[Annotated[int, Field(strict=True, ge=0, lt=2**32)] | None, Affects.RUN] = Field(
        default=None, description="Seed of everything random; null: drawn, and written to the results."
    )
    precision: Precision = Field(
        default="fp32",
        description='Arithmetic of the step. "tf32": as "fp32", on CUDA with factors rounded to 10 bits. '
        '"fp16": with the loss scaled, for which the host waits in every step.',
    )
    accumulate: Annotated[Positive, Affects.TRAINING] = Field(
        default=1, description="Batches whose gradients make one step."
    )
    chunk: Annotated[Positive | None, Affects.TRAINING] = Field(
        default=None,
        description="Samples of a batch that are embedded at a time, where the loss compares embeddings; "
        "null: all. Gradients are those of the whole batch, for memory that goes with this number and one "
        "more forward pass; but batch norm in train mode sees no more samples than are embedded at a time.",
    )
    ema: Annotated[Annotated[float, Field(strict=True, gt=0, lt=1)] | None, Affects.TRAINING] = Field(
        default=None,
        description="Decay per step of an exponential moving average of the weights, such as 0.999, which is "
        "then what is evaluated and saved; null: the weights themselves.",
    )
    sync_batch_norm: Flag = Field(
        default=True,
        description="Have batch norm in train mode see the batch of all devices. false: each sees its own, "
        "and the first one's running statistics are kept.",
    )
    channels_last: Annotated[Flag, Affects.FORM] = Field(
        default=True, description="Channels of a pixel side by side, which convolutions are faster on."
    )
    compile: Annotated[Flag, Affects.FORM] = Field(
        default=False,
        description="Compile the model, for batches of one shape; its first steps take minutes.",
    )
    recompute: Annotated[Flag, Affects.FORM] = Field(
        default=False,
        description="Compute activations anew in the backward pass: less memory for one more forward pass.",
    )
    keep_memory: Annotated[Flag, Affects.HANDLING] = Field(
        default=True, description="Keep host memory that a step frees for the next one; needs glibc."
    )
    resume: Annotated[Literal["never", "auto"], Affects.HANDLING] = Field(
        default="never",
        description='"auto": go on with the newest unfinished run of this protocol; --resume says the same.',
    )
    save_every_steps: Annotated[Positive | None, Affects.HANDLING] = Field(
        default=None,
        description="Batches after which the state is saved within an epoch; null: not by steps.",
    )
    save_every_minutes: Annotated[Annotated[float, Field(strict=True, gt=0)] | None, Affects.HANDLING] = (
        Field(
            default=10.0,
            description="Minutes after which the state is saved within an epoch; null: not by time.",
        )
    )

    def batch_of_all(self, devices: int, *, train: bool) -> int:
        """The batch size of that many devices together, in training or in evaluation."""
        size = self.batch_train if train else self.batch_test or self.batch_train
        return size * devices if self.batch_of == "device" else size

    def rate(self, devices: int) -> float:
        """What learning rates are multiplied by: as published, the number of devices."""
        return float(devices if self.batch_of == "device" else 1)

    @property
    def embeds_in_parts(self) -> bool:
        """Whether a batch has more samples than are to be embedded at a time."""
        return self.chunk is not None and self.chunk < self.batch_train


class Faults(Section):
    """What a run does about what goes wrong on its way."""

    not_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="What happens when the loss or a gradient is not finite. "
        '"stop": the run ends and keeps what it has; checked when the log is written, so no step waits. '
        '"skip": the step is left out; the host waits for the device in every step.',
    )
    not_finite_at_most: NonNegative = Field(
        default=10, description="Number of steps that may be left out; one more ends the run."
    )
    unreadable: Literal["stop", "skip"] = Field(
        default="stop",
        description="What follows a sample that cannot be read or decoded. "
        '"stop": the run names it and ends. "skip": the run goes on without it, and counts it.',
    )
    unreadable_at_most: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        default=0.01, description="Share of a split that may be skipped before the run ends after all."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_former_key(cls, given: Any) -> Any:
        """Drop `rollback_rate`, which is in every protocol that an earlier version saved."""
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if key != "rollback_rate"}
        return given
