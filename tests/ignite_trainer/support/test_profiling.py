"""Shares of the phases of a step, on the host and on a device."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest
import torch
from torch.profiler import DeviceType, record_function

from ignite_trainer.support.profiling import (
    Interval,
    Span,
    Work,
    busy_share,
    device_shares,
    host_shares,
    outer_phases,
    profile_steps,
)


def test_time_belongs_to_the_innermost_phase() -> None:
    spans = [
        Span("other", 0, 100, 1),
        Span("tower", 10, 70, 1),
        Span("wavelets", 20, 30, 1),
        Span("wavelets", 30, 35, 1),
        Span("loss", 70, 80, 1),
        Span("other", 200, 300, 1),
        Span("tower", 200, 300, 1),
    ]
    shares = host_shares(spans)
    assert shares == pytest.approx({"tower": 0.725, "wavelets": 0.075, "loss": 0.05, "other": 0.15})
    assert list(shares) == ["tower", "wavelets", "loss", "other"]


def test_a_phase_with_a_slash_includes_those_within_it() -> None:
    spans = [
        Span("other", 0, 100, 1),
        Span("teacher/", 10, 70, 1),
        Span("tower", 20, 50, 1),
        Span("tower", 70, 80, 1),
        Span("loading", 20, 40, 2),
    ]
    kept = outer_phases(spans)
    assert kept == [spans[0], Span("teacher", 10, 70, 1), spans[3], spans[4]]
    expected = {"teacher": 0.6, "tower": 0.1, "other": 0.3, "loading (alongside the step)": 0.2}
    assert host_shares(kept) == pytest.approx(expected)


def test_a_phase_of_another_thread_is_not_part_of_the_step() -> None:
    spans = [Span("other", 0, 100, 1), Span("loss", 0, 60, 1), Span("loading", 20, 40, 2)]
    expected = {"loss": 0.6, "other": 0.4, "loading (alongside the step)": 0.2}
    assert host_shares(spans) == pytest.approx(expected)


def test_a_profile_without_a_step_has_no_shares() -> None:
    assert host_shares([]) == {}
    assert device_shares([], [Work(1, 2, 1)], busy=0.0) == {}
    assert busy_share([], [Interval(1, 2)]) == 0.0


def test_work_on_a_device_belongs_to_the_phase_that_requested_it() -> None:
    spans = [
        Span("other", 0, 100, 1),
        Span("tower", 0, 10, 1),
        Span("wavelets", 2, 5, 1),
        Span("backward", 10, 20, 1),
        Span("loading", 10, 20, 3),
    ]
    work = [
        Work(1, 20, 1),  # in the tower
        Work(3, 10, 1),  # in the wavelets
        Work(15, 40, 2),  # requested by the thread of the gradients, which has no phases
        Work(16, 5, 3),  # requested while a batch was loaded
        Work(50, 5, 1),  # in no phase
        Work(150, 50, 1),  # after the step
    ]
    shares = device_shares(spans, work, busy=0.8)
    expected = {"backward": 0.4, "tower": 0.2, "wavelets": 0.1, "loading": 0.05, "other": 0.05}
    assert shares == pytest.approx({**expected, "device idle": 0.2})


def test_simultaneous_work_on_several_streams_shares_its_time() -> None:
    spans = [Span("other", 0, 100, 1), Span("tower", 0, 50, 1), Span("loading", 50, 60, 1)]
    work = [Work(1, 60, 1), Work(55, 20, 1)]
    expected = {"tower": 0.45, "loading": 0.15, "device idle": 0.4}
    assert device_shares(spans, work, busy=0.6) == pytest.approx(expected)
    assert device_shares(spans, [], busy=0.0) == {"device idle": 1.0}


@pytest.mark.parametrize(
    ("at_work", "share"),
    [
        ([], 0.0),
        ([(0, 100)], 0.5),
        ([(0, 100), (200, 300)], 1.0),
        ([(-50, 20), (90, 210)], 0.2),  # work outside the steps does not count
        ([(10, 30), (10, 20), (15, 40), (12, 13)], 0.15),  # several streams
        ([(40, 50), (0, 10), (5, 45)], 0.25),  # in any order
    ],
)
def test_a_device_is_busy_if_any_of_its_streams_is(at_work: list[tuple[float, float]], share: float) -> None:
    spans = [Span("other", 200, 300, 1), Span("other", 0, 100, 1), Span("tower", 0, 100, 1)]
    assert busy_share(spans, [Interval(*one) for one in at_work]) == pytest.approx(share)


class OnDevice(NamedTuple):
    """An event of a torch profile."""

    name: str
    device_type: DeviceType
    time_range: Interval
    thread: int = 1
    kernels: tuple[Any, ...] = ()
    is_user_annotation: bool = False


class Kernel(NamedTuple):
    duration: float


def test_a_profile_of_a_device_counts_kernels_but_not_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    events = [
        OnDevice("step/other", cpu, Interval(0, 100), is_user_annotation=True),
        OnDevice("step/tower", cpu, Interval(0, 20), is_user_annotation=True),
        OnDevice("aten::conv2d", cpu, Interval(5, 10), kernels=(Kernel(30), Kernel(10))),
        OnDevice(
            "Optimizer.step#SGD.step", cpu, Interval(20, 40), kernels=(Kernel(50),), is_user_annotation=True
        ),
        OnDevice("aten::_fused_sgd_", cpu, Interval(25, 30), kernels=(Kernel(20),)),
        OnDevice("implicit_gemm", cuda, Interval(10, 40)),
        OnDevice("nchw_to_nhwc", cuda, Interval(40, 50)),
        OnDevice("multi_tensor_apply", cuda, Interval(60, 80)),
        OnDevice("step/tower", cuda, Interval(10, 50), is_user_annotation=True),
        OnDevice("Optimizer.step#SGD.step", cuda, Interval(60, 95), is_user_annotation=True),
    ]
    profiler = MagicMock()
    profiler.events.return_value = events
    monkeypatch.setattr("ignite_trainer.support.profiling.profile", lambda **_: profiler)
    counts: list[int] = []
    found = profile_steps(counts.append, count=4, device=torch.device("cuda"))
    assert counts == [4]  # without waiting for the device after each step
    assert found.utilisation == pytest.approx(0.6)
    assert found.shares == pytest.approx({"tower": 0.4, "other": 0.2, "device idle": 0.4})


def test_profiled_steps_are_divided_among_their_phases() -> None:
    def load() -> None:
        with record_function("step/loading"):
            time.sleep(0.02)

    def steps(count: int) -> None:
        for _ in range(count):
            loader = threading.Thread(target=load)
            loader.start()
            with record_function("step/long"):
                time.sleep(0.03)
                with record_function("step/short"), record_function("no phase"):
                    time.sleep(0.01)
            loader.join()

    found = profile_steps(steps, count=2, device=torch.device("cpu"))
    assert found.utilisation is None
    shares = found.shares
    assert list(shares)[:2] == ["long", "short"]
    assert set(shares) == {"long", "short", "other", "loading (alongside the step)"}
    assert shares["long"] + shares["short"] + shares["other"] == pytest.approx(1)
    assert 2 < shares["long"] / shares["short"] < 4
