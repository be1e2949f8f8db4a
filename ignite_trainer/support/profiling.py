"""Phases of a step, and their shares of the step's time.

A phase is a `torch.profiler.record_function` whose name begins with `step/`, so code can name its phases
without importing this trainer. If the name ends with a slash, the phase includes all phases within it.
Outside a profile, a phase costs a few microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch._C._profiler import _ExperimentalConfig  # no public name lets all threads be profiled
from torch.profiler import DeviceType, ProfilerActivity, profile, record_function

PREFIX = "step/"
OTHER = "other"
"""Name for a step's time outside all phases."""
IDLE = "device idle"
"""Name for the time in which an accelerator has no work."""
_ALONGSIDE = " (alongside the step)"


class Span(NamedTuple):
    """One execution of a phase: start and end in microseconds, and thread."""

    name: str
    start: float
    end: float
    thread: int


class Work(NamedTuple):
    """An accelerator's work: request time and duration in microseconds, and the requesting thread."""

    requested: float
    duration: float
    thread: int


class Interval(NamedTuple):
    """Time in which an accelerator was busy, in microseconds."""

    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Shares of the steps' time.

    Attributes:
        shares: share of each phase, longest first, with `OTHER` and `IDLE` last. The shares of phases in the
            steps add up to 1; the names of phases in other host threads are marked.
        utilisation: share of the time in which an accelerator was busy; None without an accelerator.
    """

    shares: dict[str, float]
    utilisation: float | None


def profile_steps(steps: Callable[[int], object], *, count: int, device: torch.device) -> Profile:
    """Profile a number of steps.

    Args:
        steps: function that runs a given number of steps, and waits for the device only at the end.
        count: number of steps.
        device: device that runs the steps; an accelerator's work counts for the phase that requested it.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    profiler = profile(activities=activities, acc_events=True, experimental_config=everywhere)
    with profiler, record_function(PREFIX + OTHER):
        steps(count)
    events: Any = profiler.events() or ()
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    spans = outer_phases(
        Span(event.name[len(PREFIX) :], event.time_range.start, event.time_range.end, event.thread)
        for event in on_host
        if event.name.startswith(PREFIX)
    )
    if device.type != "cuda":
        return Profile(shares=host_shares(spans), utilisation=None)
    requested = [
        Work(event.time_range.start, kernel.duration, event.thread)
        for event in on_host
        if not event.is_user_annotation
        for kernel in event.kernels
    ]
    # Host annotations also appear on the device, from their first kernel to their last.
    at_work = [
        Interval(event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    busy = busy_share(spans, at_work)
    return Profile(shares=device_shares(spans, requested, busy=busy), utilisation=busy)


def outer_phases(spans: Iterable[Span]) -> list[Span]:
    """Drop the phases within a phase whose name ends with a slash, and the slash."""
    spans = list(spans)
    closed = [span for span in spans if span.name.endswith("/")]
    return [
        span._replace(name=span.name.removesuffix("/"))
        for span in spans
        if not any(
            span is not outer
            and span.thread == outer.thread
            and outer.start <= span.start
            and span.end <= outer.end
            for outer in closed
        )
    ]


def host_shares(spans: Iterable[Span]) -> dict[str, float]:
    """Divide the steps' time among phases: each moment in a thread belongs to the innermost phase."""
    spans = sorted(spans, key=lambda span: (span.start, -span.end))
    own: dict[str, float] = {}
    for thread in dict.fromkeys(span.thread for span in spans):
        beside = "" if thread in _threads_of_steps(spans) else _ALONGSIDE
        enclosing: list[Span] = []
        for span in (span for span in spans if span.thread == thread):
            while enclosing and enclosing[-1].end <= span.start:
                enclosing.pop()
            name, duration = span.name + beside, span.end - span.start
            own[name] = own.get(name, 0.0) + duration
            if enclosing:
                own[enclosing[-1].name + beside] -= duration
            enclosing.append(span)
    return _as_shares(own, whole=_whole(spans))


def busy_share(spans: Iterable[Span], at_work: Iterable[Interval]) -> float:
    """Return the share of the steps' time in which an accelerator was busy on any of its streams."""
    spans = list(spans)
    steps = sorted((span.start, span.end) for span in spans if span.name == OTHER)
    busy, seen = 0.0, -math.inf
    for interval in sorted(at_work):
        start = max(interval.start, seen)  # exclude time already counted
        busy += sum(max(0.0, min(interval.end, end) - max(start, begin)) for begin, end in steps)
        seen = max(seen, interval.end)
    whole = _whole(spans)
    return busy / whole if whole else 0.0


def device_shares(spans: Sequence[Span], work: Iterable[Work], *, busy: float) -> dict[str, float]:
    """Divide the steps' time among phases: work belongs to the innermost phase that requested it.

    Work requested by a thread without phases, such as autograd's thread, belongs to the current phase in the
    steps' thread. `busy` is the result of `busy_share`; simultaneous work on several streams shares its time.
    """
    step_threads = _threads_of_steps(spans)
    own: dict[str, float] = {}
    for requested, duration, thread in work:
        then = [span for span in spans if span.start <= requested < span.end]
        enclosing = [span for span in then if span.thread == thread] or [
            span for span in then if span.thread in step_threads
        ]
        if enclosing:
            innermost = max(enclosing, key=lambda span: (span.start, -span.end))
            own[innermost.name] = own.get(innermost.name, 0.0) + duration
    shares = {name: duration * busy / sum(own.values()) for name, duration in own.items()}
    return _as_shares({**shares, IDLE: 1.0 - busy}, whole=1.0 if _whole(spans) else 0.0)


def _threads_of_steps(spans: Iterable[Span]) -> set[int]:
    return {span.thread for span in spans if span.name == OTHER}


def _whole(spans: Iterable[Span]) -> float:
    return sum(span.end - span.start for span in spans if span.name == OTHER)


def _as_shares(own: dict[str, float], *, whole: float) -> dict[str, float]:
    last = (OTHER, IDLE)
    longest_first = sorted(own, key=lambda name: (name in last or name.endswith(_ALONGSIDE), -own[name]))
    return {name: own[name] / whole for name in longest_first} if whole else {}
