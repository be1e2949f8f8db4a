"""How fast a protocol trains and evaluates, beside its yardsticks in the same process, in turns.

A machine that others use, or that grows warm, changes its speed by more than what is to be measured. So
protocol and yardsticks take turns, round by round, and what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ignite.utils import manual_seed

from ignite_trainer import results
from ignite_trainer.assembly import Parts, assemble
from ignite_trainer.benchmark_table import show_benchmark
from ignite_trainer.blueprint import Blueprint, draw
from ignite_trainer.errors import ProtocolError
from ignite_trainer.instantiate import build
from ignite_trainer.phases import Profile, profile_steps
from ignite_trainer.progress import Progress
from ignite_trainer.projection import Projection, project
from ignite_trainer.protocol import Protocol
from ignite_trainer.stopwatch import Stopwatch, Turn
from ignite_trainer.validation import validate

OURS = "this protocol"
FILE_NAME = "benchmark.json"

_WARM_UP_STEPS = 6  # until the memory of a step has been seen once
_PROFILED_STEPS = {"cpu": 3, "cuda": 10}  # a device waits before the first of them


@dataclass(frozen=True)
class Spread:
    """What lies in the middle of several measurements, and the middle half of them."""

    median: float
    first_quartile: float
    third_quartile: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Quartiles by linear interpolation between the ordered values."""
        values = list(values)
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        first, median, third = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, first, third)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a protocol, or a yardstick, is at one thing.

    Attributes:
        seconds_per_step: over the rounds.
        samples_per_second: median over the rounds.
        steps_per_round: timed on end in each round.
        cost: time of the protocol by that of this yardstick, paired by rounds and for as many samples; None
            for the protocol itself.
        gain: the other way round, time of this yardstick by that of the protocol.
    """

    seconds_per_step: Spread
    samples_per_second: float
    steps_per_round: int
    cost: Spread | None
    gain: Spread | None


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Training, or evaluation: who is how fast, and where the protocol's own time goes.

    Attributes:
        speeds: of the protocol, and of what it is compared with.
        shares: of the phases in a profile of some steps.
        utilisation: in what share of that profile an accelerator was at work; None without one.
    """

    speeds: dict[str, Speed]
    shares: dict[str, float]
    utilisation: float | None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What was measured.

    Attributes:
        folder: where it is written down.
        peak_memory_bytes: of this process, and of its accelerator, before any yardstick was built.
        activities: "training", where the protocol trains, and "evaluation".
        projection: how long the protocol takes at these speeds.
    """

    folder: Path
    peak_memory_bytes: dict[str, int]
    activities: dict[str, Activity]
    projection: Projection

    @property
    def path(self) -> Path:
        """The file with all of it."""
        return self.folder / FILE_NAME


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is going to be measured, checked whole.

    Attributes:
        protocols: first the protocol itself, under the name `OURS`, then by name what it is compared with.
        rounds: in each, everyone has a turn.
    """

    protocols: dict[str, Protocol]
    rounds: int


def make_plan(
    protocol: Protocol, *, rounds: int, trusted: Iterable[str] = (), source: str | None = None
) -> Plan:
    """Derive the yardsticks' protocols, and check them and the protocol itself.

    Args:
        protocol: a validated protocol. What a run measures beside the metrics, and reports, is left out.
        rounds: in each, everyone has a turn.
        trusted: packages whose classes it may name besides the usual ones.
        source: the file it was read from, for messages.

    Raises:
        ProtocolError: a class cannot be found, or has other arguments; a yardstick does not fit.
    """
    seed = torch.seed() % 2**32 if protocol.setup.seed is None else protocol.setup.seed
    setup = protocol.setup.model_copy(update={"seed": seed, "suffix": "benchmark"})
    protocol = protocol.model_copy(update={"setup": setup, "evaluations": {}, "reporters": []})
    classes = draw(protocol, trusted=trusted, source=source).yardsticks
    protocols = {OURS: protocol}
    for name, spec in protocol.yardsticks.items():
        where = f"Yardsticks.{name}"
        yardstick = build(classes[name], spec.args, where=where)
        raw = build(yardstick.protocol, {}, protocol.to_json(), where=where)
        protocols[name] = validate(raw, source=where)
        draw(protocols[name], trusted=trusted, source=where)
    return Plan(protocols=protocols, rounds=rounds)


def carry_out(plan: Plan, *, trusted: Iterable[str] = (), turn_seconds: float = 0.5) -> Benchmark:
    """Measure a protocol's speed and that of its yardsticks; nothing that is trained is kept.

    Args:
        plan: of `make_plan`.
        trusted: packages whose classes it may name besides the usual ones.
        turn_seconds: a turn has as many steps as fit in here, at least one.

    Raises:
        ProtocolError: what a protocol names cannot be built.
    """
    protocol = plan.protocols[OURS]
    results.check_writable(protocol)
    with contextlib.ExitStack() as stack:
        ours = _Contender(protocol, trusted=trusted)
        stack.callback(ours.parts.close)
        profiles, peak_memory = ours.profile(), _peak_memory(ours.parts.device)
        contenders = {OURS: ours, **_yardsticks(plan, trusted=trusted)}
        for contender in contenders.values():
            stack.callback(contender.parts.close)
        speeds = {
            activity: _race(activity, contenders, rounds=plan.rounds, turn_seconds=turn_seconds)
            for activity in profiles
        }
    activities = {
        name: Activity(speeds=speeds[name], shares=profile.shares, utilisation=profile.utilisation)
        for name, profile in reversed(profiles.items())
    }
    rates = {name: activity.speeds[OURS].samples_per_second for name, activity in activities.items()}

    found = Benchmark(
        folder=results.make_run_folder(protocol, seed=ours.seed),
        peak_memory_bytes=peak_memory,
        activities=activities,
        projection=project(protocol, ours.parts.sizes, rates),
    )
    environment = results.describe_environment(seed=ours.seed, device=ours.parts.device)
    measured = asdict(found)
    del measured["folder"]  # the file may be kept elsewhere
    content = {
        **measured,
        "rounds": plan.rounds,
        "environment": environment,
        "protocols": {name: each.to_json() for name, each in plan.protocols.items()},
    }
    results.write_json(found.path, content)
    show_benchmark(found, protocol.setup, environment)
    return found


class _Contender:
    """A protocol that is built, and takes its turns."""

    def __init__(self, protocol: Protocol, *, trusted: Iterable[str]) -> None:
        assert protocol.setup.seed is not None, "a plan has a seed"
        self.seed = protocol.setup.seed
        self.blueprint: Blueprint = draw(protocol, trusted=trusted)
        manual_seed(self.seed)
        self.parts: Parts = assemble(self.blueprint, seed=self.seed)
        self._training = Stopwatch.of_training(self.blueprint, self.parts) if self.parts.optimizer else None

    def stopwatch(self, activity: str) -> Stopwatch:
        """Make ready for an activity; not for two of them at a time, since model and mode are one."""
        if activity == "evaluation":
            return Stopwatch.of_evaluation(self.blueprint, self.parts)
        assert self._training is not None, "something is trained"
        self.parts.plan.train_mode(self.parts.model)
        return self._training

    def profile(self) -> dict[str, Profile]:
        """Where the time goes, by activity."""
        profiles, device = {}, self.parts.device
        # As in a run, the first evaluation comes before the first step, which uses what it leaves in memory.
        for activity in ("evaluation", "training") if self._training else ("evaluation",):
            watch = self.stopwatch(activity)
            with watch.conditions():
                watch.run(_WARM_UP_STEPS)
                profiles[activity] = profile_steps(
                    watch.run, count=_PROFILED_STEPS[device.type], device=device
                )
        return profiles


def _yardsticks(plan: Plan, *, trusted: Iterable[str]) -> dict[str, _Contender]:
    """Build what the protocol is compared with; what cannot be built for it is left out, and said to be."""
    built = {}
    for name, protocol in plan.protocols.items():
        if name == OURS:
            continue
        try:
            built[name] = _Contender(protocol, trusted=trusted)
        except ProtocolError as error:
            logging.getLogger(__name__).warning("Yardsticks.%s is left out. %s", name, error)
    return built


def _race(
    activity: str, contenders: Mapping[str, _Contender], *, rounds: int, turn_seconds: float
) -> dict[str, Speed]:
    watches = {name: contender.stopwatch(activity) for name, contender in contenders.items()}
    for watch in watches.values():
        watch.warm_up(steps=_WARM_UP_STEPS, turn_seconds=turn_seconds)
    turns: dict[str, list[Turn]] = {name: [] for name in watches}
    for _ in Progress(range(rounds), desc=f"Timing {activity}", unit="rounds"):
        for name, watch in watches.items():
            turns[name].append(watch.turn())
    return {name: _speed(own, turns[OURS] if name != OURS else None) for name, own in turns.items()}


def _speed(turns: list[Turn], ours: list[Turn] | None) -> Speed:
    costs = [
        one.seconds_per_sample / other.seconds_per_sample
        for one, other in zip(ours or (), turns, strict=ours is not None)
    ]
    return Speed(
        seconds_per_step=Spread.of(turn.seconds_per_step for turn in turns),
        samples_per_second=statistics.median(1 / turn.seconds_per_sample for turn in turns),
        steps_per_round=turns[0].steps,
        cost=Spread.of(costs) if costs else None,
        gain=Spread.of(1 / cost for cost in costs) if costs else None,
    )


def _peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory that was in use so far, bytes: of the host, where it says so, and of an accelerator."""
    found = {}
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage: that begins with the memory of the process which started this one
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        found["resident"] = 1024 * int(line.split()[1])
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found
