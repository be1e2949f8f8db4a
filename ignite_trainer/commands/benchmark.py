"""`--benchmark`: measures the speed of a protocol and its baselines, alternating in one process.

Other users and rising temperature change a machine's speed by more than the differences of interest.
Results are therefore medians of the ratios within each round.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.utils import manual_seed

from ignite_trainer.commands.stopwatch import Projection, Stopwatch, Turn, project
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import validate
from ignite_trainer.results import run_folder
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import write_json
from ignite_trainer.support.formatting import duration, percent
from ignite_trainer.support.memory import peak_resident_bytes
from ignite_trainer.support.profiling import Profile, profile_steps
from ignite_trainer.support.progress import Progress
from ignite_trainer.support.terminal import show_matrix, show_rows

OURS = "this protocol"
FILE_NAME = "benchmark.json"

_WARM_UP_STEPS = 6  # until all memory that a step needs has been allocated once
_PROFILED_STEPS = {"cpu": 3, "cuda": 10}  # a device waits before the first step


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of several measurements."""

    median: float
    first_quartile: float
    third_quartile: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Quartiles:
        """Compute quartiles by linear interpolation between the ordered values."""
        return cls(*np.percentile(list(values), (50, 25, 75)).tolist())


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a protocol or baseline in one activity.

    Attributes:
        seconds_per_step: time per step over the rounds.
        samples_per_second: median over the rounds.
        steps_per_round: number of consecutive steps timed in each round.
        cost: time per sample of the protocol, divided by the baseline's in the same round; None for the
            protocol itself.
        gain: inverse of the cost, computed round by round; None for the protocol itself.
    """

    seconds_per_step: Quartiles
    samples_per_second: float
    steps_per_round: int
    cost: Quartiles | None
    gain: Quartiles | None


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Measurements of training or evaluation.

    Attributes:
        speeds: speeds of the protocol and its baselines, by name.
        shares: share of time that each phase takes in a profile of the protocol's steps, by phase.
        utilisation: share of the profile's time in which the accelerator was busy; None without an
            accelerator.
    """

    speeds: dict[str, Speed]
    shares: dict[str, float]
    utilisation: float | None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Result of a benchmark; the content of `benchmark.json`.

    Attributes:
        peak_memory_bytes: peak memory of the process ("resident") and of its accelerator ("device"), before
            any baseline was built.
        activities: measurements of "training", if the protocol trains, and of "evaluation".
        projection: projected duration of the protocol at these speeds.
        rounds: number of turns of each contender.
        environment: versions and hardware.
        protocols: protocols of all contenders as JSON types, by name.
    """

    peak_memory_bytes: dict[str, int]
    activities: dict[str, Activity]
    projection: Projection
    rounds: int
    environment: dict[str, Any]
    protocols: dict[str, dict[str, Any]]

    def write(self, folder: Path) -> Path:
        """Write `benchmark.json` into a folder, and return its path."""
        write_json(folder / FILE_NAME, asdict(self))
        return folder / FILE_NAME


def contenders(
    protocol: Protocol, *, trusted: Iterable[str] = (), source: str | None = None
) -> dict[str, Blueprint]:
    """Derive the baselines' protocols, and check them and the protocol itself.

    Args:
        protocol: validated protocol; its evaluations and reporters are ignored.
        trusted: additional packages whose classes it may name.
        source: path of the protocol's file, for messages.

    Returns:
        The protocol's blueprint under the name `OURS`, then its baselines' blueprints by name.

    Raises:
        ProtocolError: A class cannot be found or does not accept its arguments, or a baseline does not fit
            the protocol.
    """
    seed = torch.seed() % 2**32 if protocol.setup.seed is None else protocol.setup.seed
    setup = protocol.setup.model_copy(update={"seed": seed, "suffix": "benchmark"})
    protocol = protocol.model_copy(update={"setup": setup, "evaluations": {}, "reporters": []})
    blueprints = {OURS: draw(protocol, trusted=trusted, source=source, yardsticks=True)}
    for name, spec in protocol.yardsticks.items():
        where = f"Yardsticks.{name}"
        yardstick = build(blueprints[OURS].yardsticks[name], spec.args, where=where)
        raw = build(yardstick.protocol, {}, protocol.to_json(), where=where)
        blueprints[name] = draw(validate(raw, source=where), trusted=trusted, source=where)
    return blueprints


def measure(blueprints: Mapping[str, Blueprint], *, rounds: int, turn_seconds: float = 0.5) -> Benchmark:
    """Measure the speeds of all contenders, and discard the trained weights.

    Args:
        blueprints: result of `contenders`. Baselines that cannot be built are skipped with a warning.
        rounds: number of turns of each contender.
        turn_seconds: approximate duration of a turn; a turn has at least one step.

    Raises:
        ProtocolError: A part of the protocol itself cannot be built.
    """
    with contextlib.ExitStack() as stack:
        ours = _Contender(blueprints[OURS], stack)
        profiles = ours.profile()
        peak_memory = {"resident": peak_resident_bytes()}
        if ours.parts.device.type == "cuda":
            peak_memory["device"] = torch.cuda.max_memory_allocated(ours.parts.device)
        built = {OURS: ours}
        for name in [name for name in blueprints if name != OURS]:
            try:
                built[name] = _Contender(blueprints[name], stack)
            except ProtocolError as error:
                logging.getLogger(__name__).warning("Yardsticks.%s is skipped. %s", name, error)
        activities = {
            name: Activity(
                speeds=_race(name, built, rounds=rounds, turn_seconds=turn_seconds),
                shares=profile.shares,
                utilisation=profile.utilisation,
            )
            for name, profile in profiles.items()
        }
    rates = {name: activity.speeds[OURS].samples_per_second for name, activity in activities.items()}
    return Benchmark(
        peak_memory_bytes={name: size for name, size in peak_memory.items() if size is not None},
        activities=dict(reversed(activities.items())),
        projection=project(ours.blueprint.protocol, ours.parts.sizes, rates),
        rounds=rounds,
        environment=run_folder.describe_environment(seed=ours.seed, device=ours.parts.device),
        protocols={name: each.protocol.to_json() for name, each in blueprints.items()},
    )


class _Contender:
    """A protocol or baseline whose parts are built, ready for its turns."""

    def __init__(self, blueprint: Blueprint, stack: contextlib.ExitStack) -> None:
        seed = blueprint.protocol.setup.seed
        assert seed is not None, "contenders have a seed"
        self.seed = seed
        self.blueprint = blueprint
        manual_seed(seed)
        self.parts = assemble(blueprint, seed=seed)
        stack.callback(self.parts.close)
        self._training = Stopwatch.of_training(blueprint, self.parts) if self.parts.optimizer else None

    def stopwatch(self, activity: str) -> Stopwatch:
        """Prepare a stopwatch for an activity. Use one at a time, because each sets the model's mode."""
        if activity == "evaluation":
            return Stopwatch.of_evaluation(self.blueprint, self.parts)
        assert self._training is not None, "something is trained"
        self.parts.plan.train_mode(self.parts.model)
        return self._training

    def profile(self) -> dict[str, Profile]:
        """Profile evaluation first, as in a run, because training reuses the memory that it allocates."""
        profiles, device = {}, self.parts.device
        for activity in ("evaluation", "training") if self._training else ("evaluation",):
            watch = self.stopwatch(activity)
            with watch.conditions():
                watch.run(_WARM_UP_STEPS)
                count = _PROFILED_STEPS[device.type]
                profiles[activity] = profile_steps(watch.run, count=count, device=device)
        return profiles


def _race(
    activity: str, built: Mapping[str, _Contender], *, rounds: int, turn_seconds: float
) -> dict[str, Speed]:
    watches = {name: contender.stopwatch(activity) for name, contender in built.items()}
    for watch in watches.values():
        watch.warm_up(steps=_WARM_UP_STEPS, turn_seconds=turn_seconds)
    turns: dict[str, list[Turn]] = {name: [] for name in watches}
    for _ in Progress(range(rounds), desc=f"Timing {activity}", unit="rounds"):
        for name, watch in watches.items():
            turns[name].append(watch.turn())
    return {name: _speed(own, turns[OURS] if name != OURS else ()) for name, own in turns.items()}


def _speed(turns: Sequence[Turn], ours: Sequence[Turn]) -> Speed:
    costs = [
        mine.seconds_per_sample / other.seconds_per_sample for mine, other in zip(ours, turns, strict=False)
    ]
    return Speed(
        seconds_per_step=Quartiles.of(turn.seconds_per_step for turn in turns),
        samples_per_second=statistics.median(1 / turn.seconds_per_sample for turn in turns),
        steps_per_round=turns[0].steps,
        cost=Quartiles.of(costs) if costs else None,
        gain=Quartiles.of(1 / cost for cost in costs) if costs else None,
    )


def show_benchmark(found: Benchmark) -> None:
    """Print a benchmark as tables: facts, speeds and phases."""
    setup, environment = found.protocols[OURS]["Setup"], found.environment
    batch_test = setup["batch_test"] or setup["batch_train"]
    versions = {name: environment["packages"][name] for name in ("torch", "torchvision")}
    versions |= environment["cuda"] or {}
    facts = {
        "Device": environment["accelerator"] or f"{environment['device']}, threads: {environment['threads']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Precision": setup["precision"],
        "Channels last": str(setup["channels_last"]).lower(),
        "Compiled": str(setup["compile"]).lower(),
        "Batch size": f"training {setup['batch_train']}, evaluation {batch_test}",
        "Loader processes": f"training {setup['workers_train']}, evaluation {setup['workers_test']}",
    }
    for name, size in found.peak_memory_bytes.items():
        facts[f"Peak memory, {name}"] = f"{size / 2**30:.2f} GiB"
    for name, activity in found.activities.items():
        if activity.utilisation is not None:
            facts[f"Device busy, {name}"] = f"{percent(activity.utilisation)}%"
    time = found.projection
    facts["Projected time"] = f"{duration(time.seconds_per_run)} for {time.epochs} epochs with evaluation"
    if time.runs > 1:
        facts["Projected time"] += f", {duration(time.seconds)} for {time.runs} runs"
    show_rows(f"{setup['name']}: benchmark", facts.items())
    for name, activity in found.activities.items():
        _show_speeds(name, activity)
    phases = dict.fromkeys(phase for activity in found.activities.values() for phase in activity.shares)
    shares = {
        phase: [
            f"{percent(activity.shares[phase])}%" if phase in activity.shares else ""
            for activity in found.activities.values()
        ]
        for phase in phases
    }
    show_matrix("Share of this protocol's time", list(found.activities), shares)


def _show_speeds(title: str, activity: Activity) -> None:
    measure = "median (interquartile range)"
    if len(activity.speeds) > 1:
        measure += "; ratios compare this protocol with the baseline in the row"
    rows = {
        name: [
            _readable(speed.seconds_per_step, unit=1e-3),
            _number(speed.samples_per_second),
            _readable(speed.cost) if speed.cost else "",
            _number(speed.gain.median) if speed.gain else "",
        ]
        for name, speed in activity.speeds.items()
    }
    show_matrix(
        f"{title.capitalize()}: {measure}", ["ms per step", "samples/s", "time ratio", "speed-up"], rows
    )


def _readable(quartiles: Quartiles, *, unit: float = 1.0) -> str:
    values = (quartiles.median, quartiles.first_quartile, quartiles.third_quartile)
    median, first, third = (_number(value / unit) for value in values)
    return f"{median} ({first}-{third})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
