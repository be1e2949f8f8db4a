"""The base class for sections, and the protocol's `Setup` and `Faults`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ignite_trainer.api.affects import Affects

# Strict: `true` is not a number, and "no" is not a boolean.
Positive = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
NonNegative = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Flag = Annotated[bool, Field(strict=True)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]

_ROUNDING = 1e-9  # 0.29 * 100 is less than 29


class Section(BaseModel):
    """A JSON object with fixed keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True)

    @classmethod
    def affects(cls) -> dict[str, Affects]:
        """Return the effect of each key, as annotated; by default, a key affects the result."""
        return {
            field.alias or name: next(
                (mark for mark in field.metadata if isinstance(mark, Affects)), Affects.RESULT
            )
            for name, field in cls.model_fields.items()
        }


class Setup(Section):
    """Settings of a run."""

    name: Annotated[str, Affects.FORM] = Field(
        min_length=1,
        max_length=100,
        description="Name of the experiment, and of the folder that holds its runs.",
    )
    suffix: Annotated[str | None, Affects.FORM] = Field(
        default=None, max_length=60, description="Text appended to the run's name."
    )
    batch_train: Annotated[Positive, Affects.TRAINING] = Field(
        description='Training batch size, per device unless batch_of is "all".'
    )
    batch_of: Literal["device", "all"] = Field(
        default="device",
        description='Meaning of batch sizes on several devices. "device": size of each device\'s batch; '
        'learning rates are multiplied by the number of devices. "all": size of the global batch; results do '
        "not depend on the number of devices.",
    )
    batch_test: Annotated[Positive | None, Affects.SWEEP] = Field(
        default=None, description="Evaluation batch size; null: the same as batch_train."
    )
    workers_train: Annotated[NonNegative, Affects.HANDLING] = Field(
        default=0,
        description="Number of worker processes that load training samples, at most one per CPU core; "
        "ignored by data sets that load whole batches.",
    )
    workers_test: Annotated[NonNegative, Affects.HANDLING] = Field(
        default=0,
        description="Number of worker processes that load samples for evaluation, with the same limits.",
    )
    epochs: NonNegative = Field(description="Number of passes over the training split; 0: only evaluate.")
    sampling: Annotated[Literal["each", "balanced"], Affects.TRAINING] = Field(
        default="each",
        description='Training samples in an epoch. "each": every sample once. "balanced": random draws with '
        "replacement; the probability of a sample is proportional to the sum over its labels of 1 / (number "
        "of samples with that label), as in PSLA (arXiv 2102.01243).",
    )
    samples_per_epoch: Annotated[Positive | None, Affects.TRAINING] = Field(
        default=None,
        description='Number of draws in an epoch if sampling is "balanced"; null: the number of training '
        "samples. PaSST (arXiv 2110.05069) draws 100000 of two million samples.",
    )
    log_interval: Annotated[Positive, Affects.HANDLING] = Field(
        default=10,
        description="Number of training steps (iterations of one batch) between log entries; the last step "
        "of each epoch is always logged.",
    )
    saved_models_path: Annotated[str, Affects.HANDLING] = Field(
        description="Root folder for all results; each run has its own folder in it."
    )
    patience: Annotated[Positive | None, Affects.TRAINING] = Field(
        default=None,
        description="Number of epochs without a better value on the validation split, by the first metric "
        "with is_checkpoint, after which training stops; null: train for all epochs.",
    )
    skip_train_evaluation: Annotated[Flag, Affects.FORM] = Field(
        default=False, description="Do not evaluate the training split."
    )
    seed: Annotated[Annotated[int, Field(strict=True, ge=0, lt=2**32)] | None, Affects.RUN] = Field(
        default=None,
        description="Seed for all random numbers; null: drawn at random, and saved with the results.",
    )
    precision: Precision = Field(
        default="fp32",
        description='Numeric precision of a step. "tf32": like "fp32", but on CUDA, inputs of matrix '
        "products and convolutions are rounded to a 10-bit mantissa. "
        '"fp16": with loss scaling, for which the host waits for the device in every step.',
    )
    accumulate: Annotated[Positive, Affects.TRAINING] = Field(
        default=1, description="Number of batches whose gradients are accumulated per optimizer step."
    )
    chunk: Annotated[Positive | None, Affects.TRAINING] = Field(
        default=None,
        description="Number of samples embedded at a time, for losses that compare the embeddings of a whole "
        "batch; null: all samples. Gradients are those of the whole batch, using the memory of one chunk, at "
        "the cost of a second forward pass. Batch norm in train mode sees one chunk at a time.",
    )
    ema: Annotated[Annotated[float, Field(strict=True, gt=0, lt=1)] | None, Affects.TRAINING] = Field(
        default=None,
        description="Decay per step of an exponential moving average of the weights, such as 0.999; the "
        "average is evaluated and saved. null: no averaging.",
    )
    swa: Annotated[Annotated[float, Field(strict=True, ge=0, lt=1)] | None, Affects.TRAINING] = Field(
        default=None,
        description="Stochastic weight averaging (arXiv 1803.05407): share of the epochs before averaging "
        "starts, such as 0.75. From then on, the mean of the weights at the ends of epochs is evaluated and "
        "saved, with the mean of batch norm's running statistics. null: no averaging.",
    )
    sync_batch_norm: Flag = Field(
        default=True,
        description="Use the statistics of all devices for batch norm in train mode. false: each device uses "
        "its own, and the running statistics of the first device are kept.",
    )
    channels_last: Annotated[Flag, Affects.FORM] = Field(
        default=True, description="Use the channels-last memory format, which makes convolutions faster."
    )
    compile: Annotated[Flag, Affects.FORM] = Field(
        default=False,
        description="Compile the model, for batches of one shape; the first steps take minutes.",
    )
    recompute: Annotated[Flag, Affects.FORM] = Field(
        default=False,
        description="Recompute activations in the backward pass, which saves memory at the cost of a second "
        "forward pass.",
    )
    keep_memory: Annotated[Flag, Affects.HANDLING] = Field(
        default=True,
        description="Reuse host memory freed by a step instead of returning it to the system; requires "
        "glibc.",
    )
    resume: Annotated[Literal["never", "auto"], Affects.HANDLING] = Field(
        default="never",
        description='"auto": resume the newest unfinished run of this protocol, as with --resume.',
    )
    save_every_steps: Annotated[Positive | None, Affects.HANDLING] = Field(
        default=None,
        description="Number of training steps between saves of the state within an epoch; null: do not save "
        "by steps.",
    )
    save_every_minutes: Annotated[Annotated[float, Field(strict=True, gt=0)] | None, Affects.HANDLING] = (
        Field(
            default=10.0,
            description="Minutes between saves of the state within an epoch; null: do not save by time.",
        )
    )

    def batch_of_all(self, devices: int, *, train: bool) -> int:
        """Return the global batch size, in training or in evaluation."""
        size = self.batch_train if train else self.batch_test or self.batch_train
        return size * devices if self.batch_of == "device" else size

    def samples_of_epoch(self, samples: int) -> int:
        """Return the number of samples that an epoch takes from a training split of this size."""
        return self.samples_per_epoch or samples

    def rate(self, devices: int) -> float:
        """Return the factor for the learning rates: as published, the number of devices."""
        return float(devices if self.batch_of == "device" else 1)

    @property
    def first_averaged_epoch(self) -> int | None:
        """First epoch, from 1, whose weights `swa` averages; None without `swa`."""
        if self.swa is None:
            return None
        return min(math.floor(self.swa * self.epochs + _ROUNDING) + 1, max(1, self.epochs))

    @property
    def embeds_in_parts(self) -> bool:
        """True if training batches are embedded in more than one chunk."""
        return self.chunk is not None and self.chunk < self.batch_train


class Faults(Section):
    """Responses to faults during a run."""

    not_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="Response to a non-finite loss or gradient. "
        '"stop": end the run and keep its results; checked when the log is written, so steps do not wait '
        'for the device. "skip": skip the step; the host waits for the device in every step.',
    )
    not_finite_at_most: NonNegative = Field(
        default=10, description="Maximum number of skipped steps; one more ends the run."
    )
    unreadable: Literal["stop", "skip"] = Field(
        default="stop",
        description="Response to a sample that cannot be read or decoded. "
        '"stop": name the sample and end the run. "skip": continue without the sample, and count it.',
    )
    unreadable_at_most: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        default=0.01,
        description="Maximum fraction of a split's samples that may be skipped; a larger fraction ends the "
        "run.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_former_key(cls, given: Any) -> Any:
        """Drop `rollback_rate`, which saved protocols of earlier versions contain."""
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if key != "rollback_rate"}
        return given
