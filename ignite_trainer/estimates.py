"""What a run will take, from a few of its steps: time of an epoch, memory, and the shapes on the way.

Steps are measured at the protocol's batch size where that takes little time; else at two smaller ones, and a
straight line through the two says what the whole batch takes. The larger one goes first: between the pieces
of memory that smaller steps used and the process keeps there is no room for larger ones.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ignite_trainer.assembly import Parts, with_other_batches
from ignite_trainer.blueprint import Blueprint
from ignite_trainer.data import SplitLoader
from ignite_trainer.errors import first_line
from ignite_trainer.projection import project
from ignite_trainer.rehearsal import Overhead, rehearse
from ignite_trainer.stopwatch import Stopwatch

Activity = Literal["training", "evaluation"]

_FEW = 4  # samples of the smaller batch
# Seconds that a measured step may take; one as long goes before to warm up. Memory of training grows evenly
# with the batch; that of an evaluation may not.
_SECONDS: Mapping[Activity, float] = {"training": 8.0, "evaluation": 30.0}
_LONG = 5.0  # seconds; after a warm-up that takes longer one step is measured, else two
_DEEPEST = 2  # levels of modules whose outputs are shown
_PEAK_RESET = Path("/proc/self/clear_refs")


class Point(NamedTuple):
    """What a step of one batch size took.

    Attributes:
        samples: the batch size.
        seconds: mean of the steps, but for the first.
        extra_of_first: by how much the first step takes longer, which gets its memory from the system.
        peak_bytes: largest resident memory of the process, or what an accelerator held; None: not known.
    """

    samples: int
    seconds: float
    extra_of_first: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One activity: what was measured, and what a step of the whole batch takes by that."""

    measured: tuple[Point, ...]
    whole: Point


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a run will take.

    Attributes:
        activities: a step of each.
        seconds_per_epoch: training, the evaluations after it, and what is saved and drawn then; where nothing
            is trained, the evaluation.
        seconds_per_run: all epochs, the evaluation before the first, and the report after the last.
        beside_steps: what of these is neither training nor evaluation; a text why that could not be measured.
        peak_bytes: the most of all activities, and of what is saved and drawn; None: not known.
        batch: shapes of the fields of a batch, by name: of training, if anything is trained.
        stages: shapes of what modules give in a step, by name; B is the batch.
    """

    activities: dict[Activity, Estimate]
    seconds_per_epoch: float
    seconds_per_run: float
    beside_steps: Overhead | str
    peak_bytes: int | None
    batch: dict[str, str]
    stages: dict[str, str]


def estimate(
    blueprint: Blueprint, parts: Parts, *, seed: int, tell: Callable[[str], object] = lambda _: None
) -> Estimates:
    """Carry out a few steps of each activity; the model's weights are not the same afterwards.

    `tell` is called with what is measured next.
    """
    setup = blueprint.protocol.setup
    wanted: dict[Activity, int] = {
        "evaluation": min(setup.batch_test or setup.batch_train, parts.sizes["test"])
    }
    if parts.optimizer:
        wanted["training"] = setup.batch_train
    measurement = _Measurement(blueprint, parts, seed=seed, tell=tell)
    found = {activity: measurement.measure(activity, samples) for activity, samples in wanted.items()}
    rates: dict[str, float] = {name: each.whole.samples / each.whole.seconds for name, each in found.items()}
    projection = project(blueprint.protocol, parts.sizes, rates)
    first = parts.sizes["test"] / rates["evaluation"]
    epochs = projection.epochs
    beside_steps, peak = measurement.rehearse()
    overhead = beside_steps if isinstance(beside_steps, Overhead) else Overhead(0.0, 0.0, 0.0, 0)
    # On the CPU, a state that is being written takes memory besides the steps.
    beside = overhead.state_bytes if parts.device.type == "cpu" else 0
    peaks = [one.whole.peak_bytes + beside for one in found.values() if one.whole.peak_bytes is not None]
    once = overhead.once + sum(each.whole.extra_of_first for each in found.values())
    steps_per_epoch = (projection.seconds_per_run - first) / epochs if epochs else first
    # A state is not copied before the previous one is written.
    seconds_per_epoch = max(steps_per_epoch + overhead.per_epoch, overhead.writing)
    return Estimates(
        activities=found,
        seconds_per_epoch=seconds_per_epoch,
        seconds_per_run=(first if epochs else 0.0) + max(1, epochs) * seconds_per_epoch + once,
        beside_steps=beside_steps,
        peak_bytes=max(peaks if peak is None else [peak, *peaks], default=None),
        batch=measurement.batch,
        stages=measurement.stages,
    )


class _Measurement:
    """Carries out steps with batches of several sizes."""

    def __init__(
        self, blueprint: Blueprint, parts: Parts, *, seed: int, tell: Callable[[str], object]
    ) -> None:
        self._blueprint, self._parts, self._seed, self._tell = blueprint, parts, seed, tell
        self._few = max(_FEW, blueprint.protocol.setup.chunk or 0)
        self.batch: dict[str, str] = {}
        self.stages: dict[str, str] = {}

    def measure(self, activity: Activity, wanted: int) -> Estimate:
        """Measure steps of the whole batch, or else of as many samples as there is time for, and of fewer."""
        trial = self._steps(activity, min(self._few, wanted), trial=True)
        affordable = max(3 * self._few, int(_SECONDS[activity] / trial.seconds * trial.samples))
        more = self._steps(activity, min(wanted, affordable))
        if more.samples == wanted:
            return Estimate(measured=(more,), whole=more)
        few = self._steps(activity, more.samples // 3)
        return Estimate(measured=(few, more), whole=_extrapolated(few, more, wanted))

    def rehearse(self) -> tuple[Overhead | str, int | None]:
        """Measure what a run takes beside its steps, and its largest memory; why not, where that fails."""
        self._tell("Measuring what is saved and drawn")
        _reset_peak(self._parts.device)
        try:
            found = rehearse(self._blueprint, self._parts, samples=self._few, seed=self._seed)
        except Exception as error:  # whatever it is, what was measured before is told
            return f"a trial run of {self._few} samples failed: {first_line(error)}", None
        return found, _peak(self._parts.device)

    def _steps(self, activity: Activity, samples: int, *, trial: bool = False) -> Point:
        """Measure steps; of a trial see the shapes, too, and leave memory as it was."""
        self._tell(f"Measuring {activity} with batches of {samples}")
        protocol = self._blueprint.protocol
        changes = {"batch_train": samples, "batch_test": samples, "workers_train": 0, "workers_test": 0}
        if trial:
            changes["keep_memory"] = False
        setup = protocol.setup.model_copy(update=changes)
        blueprint = replace(self._blueprint, protocol=protocol.model_copy(update={"setup": setup}))
        with contextlib.closing(with_other_batches(blueprint, self._parts, seed=self._seed)) as parts:
            if activity == "training":
                watch, loader = Stopwatch.of_training(blueprint, parts), parts.training
                parts.plan.train_mode(parts.model)
            else:
                watch, loader = Stopwatch.of_evaluation(blueprint, parts), parts.evaluation["test"]
            _reset_peak(parts.device)
            with watch.conditions():
                if not trial:
                    return self._timed(watch, samples)
                self.batch = _shapes_of_fields(_first_sample(loader), samples)
                with _Stages(parts.model, samples, self.stages):
                    return self._timed(watch, samples)

    def _timed(self, watch: Stopwatch, samples: int) -> Point:
        first = _seconds(watch, 1)
        if not self._blueprint.protocol.setup.epochs and samples == self._parts.sizes["test"]:
            return Point(samples, first, 0.0, _peak(self._parts.device))  # the run has no other step
        rounds = 1 if first > _LONG else 2
        seconds = _seconds(watch, rounds) / rounds
        return Point(samples, seconds, max(0.0, first - seconds), _peak(self._parts.device))


class _Stages:
    """Writes down, within a block, the shapes of what modules give when they are first called."""

    def __init__(self, model: nn.Module, samples: int, found: dict[str, str]) -> None:
        self._model, self._samples, self._found = model, samples, found
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if name and name.count(".") < _DEEPEST:
                self._hooks.append(module.register_forward_hook(self._noting(name)))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, _: object, output: object) -> None:
            self._found.setdefault(name, f"{type(module).__name__} {_shape(output, self._samples)}")

        return note


def _first_sample(loader: SplitLoader) -> Any:
    """The first batch of which something can be read."""
    return next(batch.sample for batch in loader if batch.sample is not None)


def _seconds(watch: Stopwatch, rounds: int) -> float:
    start = time.perf_counter()
    watch.run(rounds)
    return time.perf_counter() - start


def _extrapolated(few: Point, more: Point, samples: int) -> Point:
    def line(one: float, other: float) -> float:
        slope = max(0.0, (other - one) / (more.samples - few.samples))
        return other + slope * (samples - more.samples)

    peak = None
    if few.peak_bytes is not None and more.peak_bytes is not None:
        peak = int(line(few.peak_bytes, more.peak_bytes))
    first = line(few.extra_of_first, more.extra_of_first)
    return Point(samples, line(few.seconds, more.seconds), first, peak)


def _shapes_of_fields(sample: Any, samples: int) -> dict[str, str]:
    fields: Mapping[str, Any]
    if isinstance(sample, Mapping):
        fields = sample
    else:
        names = getattr(sample, "_fields", range(len(sample)))
        fields = {str(name): field for name, field in zip(names, sample, strict=True)}
    return {name: _shape(field, samples) for name, field in fields.items()}


def _shape(value: Any, samples: int) -> str:
    """Shape and type of a tensor, or of what holds some; B stands for the batch."""
    if isinstance(value, Tensor):
        sizes = ["B" if size == samples and not axis else str(size) for axis, size in enumerate(value.shape)]
        return f"[{', '.join(sizes)}] {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list) and any(isinstance(each, Tensor) for each in value):
        return ", ".join(_shape(each, samples) for each in value if isinstance(each, Tensor))
    return (
        f"list of {'B' if len(value) == samples else len(value)}"
        if isinstance(value, list)
        else type(value).__name__
    )


def _reset_peak(device: torch.device) -> None:
    gc.collect()  # a copy of the data on the device, say, of a loader that was used before
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PEAK_RESET.exists():
        _PEAK_RESET.write_text("5")  # what is the largest so far begins anew at what is in use


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
