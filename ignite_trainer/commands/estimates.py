"""Estimates a run's time, memory and tensor shapes from a few steps and one checkpoint.

Steps are measured at the protocol's batch size if that is quick; otherwise, they are measured at two smaller
sizes and extrapolated linearly. The larger size is measured first, because smaller steps leave fragmented
memory that larger steps cannot use.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ignite_trainer.checkpoints.checkpoints import Checkpoints
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.commands.check_room import existing
from ignite_trainer.commands.stopwatch import Stopwatch, project
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.results import run_folder
from ignite_trainer.runs.assembly import Parts, with_other_batches
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.support.memory import peak_resident_bytes

Activity = Literal["training", "evaluation"]

_FEW = 4  # samples in the smallest batch
# Maximum seconds of a measured step. Evaluation gets more time than training, because its memory may not grow
# linearly with the batch size and is better measured than extrapolated.
_SECONDS: Mapping[Activity, float] = {"training": 8.0, "evaluation": 30.0}
_QUICK, _REPEATED = 1.0, 4  # a step that takes fewer seconds is repeated
_MAX_DEPTH = 2  # levels of modules to show
_PEAK_RESET = Path("/proc/self/clear_refs")


class Step(NamedTuple):
    """A measured or extrapolated step.

    Attributes:
        samples: batch size.
        seconds: duration after warm-up.
        peak_bytes: peak resident memory of the process, or of tensors on an accelerator; None if unknown.
        measured: largest batch size that was measured; less than `samples` if the step is extrapolated.
    """

    samples: int
    seconds: float
    peak_bytes: int | None
    measured: int


class Checkpoint(NamedTuple):
    """Duration of writing a state and the best weights, and memory that the copy of the state takes."""

    seconds: float = 0.0
    copy_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Estimates of a run.

    Attributes:
        steps: measured or extrapolated step of each activity.
        checkpoint: measurements of a checkpoint, or the reason why it could not be written.
        seconds_per_epoch: duration of training and evaluation; only of evaluation if nothing is trained.
        seconds_per_run: duration of all epochs, the evaluation before them and the checkpoint after them.
        peak_bytes: peak memory of the run; None if unknown.
        batch: shape of each field of a batch, by name; the batch is for training if anything is trained.
        stages: shape of each module's output, by name; B is the batch size.
    """

    steps: dict[Activity, Step]
    checkpoint: Checkpoint | str
    seconds_per_epoch: float
    seconds_per_run: float
    peak_bytes: int | None
    batch: dict[str, str]
    stages: dict[str, str]


def estimate(
    blueprint: Blueprint, parts: Parts, *, seed: int, tell: Callable[[str], object] = lambda _: None
) -> Estimates:
    """Run a few steps of each activity, which changes the model's weights.

    Calls `tell` with a description of each measurement before the measurement starts.
    """
    setup, sizes = blueprint.protocol.setup, parts.sizes
    measurement = _Measurement(blueprint, parts, seed, tell)
    evaluated = min(setup.batch_test or setup.batch_train, sizes["test"])
    steps: dict[Activity, Step] = {"evaluation": measurement.step("evaluation", evaluated)}
    if parts.optimizer:
        steps["training"] = measurement.step("training", setup.batch_train)
    tell("Measuring a checkpoint")
    checkpoint = _write_checkpoint(blueprint, parts)
    writing, copy_bytes = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint()
    rates: dict[str, float] = {name: step.samples / step.seconds for name, step in steps.items()}
    projection = project(blueprint.protocol, sizes, rates)
    first = (sizes["test"] + sizes.get("validation", 0)) / rates["evaluation"]
    seconds_per_epoch = first
    if epochs := projection.epochs:
        # A state is not copied until the previous state has been written.
        seconds_per_epoch = max((projection.seconds_per_run - first) / epochs, writing)
    # On the CPU, the copy of a state shares memory with the steps.
    copied = copy_bytes if parts.device.type == "cpu" else 0
    peaks = [step.peak_bytes + copied for step in steps.values() if step.peak_bytes is not None]
    return Estimates(
        steps=steps,
        checkpoint=checkpoint,
        seconds_per_epoch=seconds_per_epoch,
        seconds_per_run=first + epochs * seconds_per_epoch + writing,
        peak_bytes=max(peaks, default=None),
        batch=measurement.batch,
        stages=measurement.stages,
    )


@dataclass
class _Measurement:
    """Measures steps with batches of several sizes, and records shapes."""

    blueprint: Blueprint
    parts: Parts
    seed: int
    tell: Callable[[str], object]
    batch: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

    def step(self, activity: Activity, samples: int) -> Step:
        """Measure a step with a whole batch; if that takes too long, extrapolate from two smaller batches."""
        few = max(_FEW, self.blueprint.protocol.setup.chunk or 0)
        trial = self._measure(activity, min(few, samples), trial=True)
        affordable = max(3 * few, int(_SECONDS[activity] / trial.seconds * trial.samples))
        more = self._measure(activity, min(samples, affordable))
        if more.samples == samples:
            return more
        return extrapolate(self._measure(activity, more.samples // 3), more, samples)

    def _measure(self, activity: Activity, samples: int, *, trial: bool = False) -> Step:
        """Measure a step. A trial also records shapes, and returns its memory to the system."""
        self.tell(f"Measuring {activity} with batches of {samples}")
        changes = {"batch_train": samples, "batch_test": samples, "workers_train": 0, "workers_test": 0}
        if trial:
            changes["keep_memory"] = False
        blueprint = self.blueprint.with_setup(**changes)
        with contextlib.ExitStack() as stack:
            parts = with_other_batches(blueprint, self.parts, seed=self.seed)
            stack.callback(parts.close)
            if activity == "training":
                watch, loader = Stopwatch.of_training(blueprint, parts), parts.training
                parts.plan.train_mode(parts.model)
            else:
                watch, loader = Stopwatch.of_evaluation(blueprint, parts), parts.evaluation["test"]
            _reset_peak(parts.device)
            stack.enter_context(watch.conditions())
            if trial:
                sample = next(batch.sample for batch in loader if batch.sample is not None)
                self.batch = _shapes_of_fields(sample, samples)
                stack.enter_context(_recorded_shapes(parts.model, samples, self.stages))
            turn = watch.turn()
            if turn.seconds < _QUICK:
                watch.steps_per_turn = _REPEATED
                turn = watch.turn()
            return Step(samples, turn.seconds_per_sample * samples, _peak(parts.device), samples)


def extrapolate(few: Step, more: Step, samples: int) -> Step:
    """Extrapolate two measured steps linearly to a larger batch, but never below the larger step."""

    def line(smaller: float, larger: float) -> float:
        slope = max(0.0, (larger - smaller) / (more.samples - few.samples))
        return larger + slope * (samples - more.samples)

    peak = None
    if few.peak_bytes is not None and more.peak_bytes is not None:
        peak = int(line(few.peak_bytes, more.peak_bytes))
    return Step(samples, line(few.seconds, more.seconds), peak, more.samples)


def _write_checkpoint(blueprint: Blueprint, parts: Parts) -> Checkpoint | str:
    """Save a checkpoint as after a best epoch, on the results' disk; return an error as text."""
    if not parts.optimizer:
        return Checkpoint()
    protocol = blueprint.protocol
    state = {"optimizer": parts.optimizer, **({"average": parts.average} if parts.average else {})}
    try:
        with tempfile.TemporaryDirectory(
            prefix="explain-", dir=existing(run_folder.root_of(protocol.setup))
        ) as folder:
            checkpoints = Checkpoints(
                Path(folder),
                protocol,
                model=parts.model,
                state=state,
                saved_weights=parts.evaluated_weights,
            )
            start = time.monotonic()
            values = {line.line_label: 0.0 for line in protocol.lines.values()}
            checkpoints.save(values, position=Position(epoch=1, iteration=1, complete=True))
            checkpoints.wait()
            seconds = time.monotonic() - start
            return Checkpoint(seconds, sum(path.stat().st_size for path in Path(folder).glob("last_*.pt")))
    except (OSError, RunFailed) as error:
        return str(error)


@contextlib.contextmanager
def _recorded_shapes(model: nn.Module, samples: int, shapes: dict[str, str]) -> Iterator[None]:
    """Record the shape of each module's first output within a `with` block."""

    def record(name: str, module: nn.Module, _: object, output: object) -> None:
        shapes.setdefault(name, f"{type(module).__name__} {_shape(output, samples)}")

    hooks = [
        module.register_forward_hook(functools.partial(record, name))
        for name, module in model.named_modules()
        if name and name.count(".") < _MAX_DEPTH
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _shapes_of_fields(sample: Any, samples: int) -> dict[str, str]:
    if not isinstance(sample, Mapping):
        sample = dict(zip(getattr(sample, "_fields", range(len(sample))), sample, strict=True))
    return {str(name): _shape(field, samples) for name, field in sample.items()}


def _shape(value: Any, samples: int) -> str:
    """Describe the shape and dtype of a tensor, or of the tensors in a list; B is the batch size."""
    if isinstance(value, Tensor):
        sizes = ["B" if size == samples and not axis else str(size) for axis, size in enumerate(value.shape)]
        return f"[{', '.join(sizes)}] {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list) and any(isinstance(each, Tensor) for each in value):
        return ", ".join(_shape(each, samples) for each in value if isinstance(each, Tensor))
    if isinstance(value, list):
        return f"list of {'B' if len(value) == samples else len(value)}"
    return type(value).__name__


def _reset_peak(device: torch.device) -> None:
    gc.collect()  # an earlier loader may hold a copy of the data on the device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PEAK_RESET.exists():
        _PEAK_RESET.write_text("5")  # resets the peak to the memory in use


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
