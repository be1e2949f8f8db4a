"""Which phase of a step the time goes to: of nested ones the inner, on the host and on a device."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.profiler import record_function

from ignite_trainer.phases import Span, Work, device_shares, host_shares, phase, profile_steps


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


def test_a_phase_of_another_thread_is_said_to_be_beside_the_step() -> None:
    spans = [Span("other", 0, 100, 1), Span("loss", 0, 60, 1), Span("loading", 20, 40, 2)]
    expected = {"loss": 0.6, "other": 0.4, "loading (beside the step)": 0.2}
    assert host_shares(spans) == pytest.approx(expected)


def test_without_a_step_there_are_no_shares() -> None:
    assert host_shares([]) == {}
    assert device_shares([], [Work(1, 2, 1)]) == {}


def test_a_devices_work_belongs_to_the_phase_that_asked_for_it_and_the_rest_is_idle() -> None:
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
        Work(15, 40, 2),  # asked for by the thread of the gradients, which has no phases
        Work(16, 5, 3),  # asked for while a batch was loaded
        Work(50, 5, 1),  # in no phase
        Work(150, 50, 1),  # after the step
    ]
    shares = device_shares(spans, work)
    expected = {"backward": 0.4, "tower": 0.2, "wavelets": 0.1, "loading": 0.05, "other": 0.05}
    assert shares == pytest.approx({**expected, "device idle": 0.2})


def test_profiled_steps_are_shared_out_by_their_phases() -> None:
    def load() -> None:
        with phase("loading"):
            time.sleep(0.02)

    def step() -> None:
        loader = threading.Thread(target=load)
        loader.start()
        with phase("long"):
            time.sleep(0.03)
            with record_function("step/short"), record_function("no phase"):
                time.sleep(0.01)
        loader.join()

    shares = profile_steps(step, count=2, device=torch.device("cpu"))
    assert list(shares)[:2] == ["long", "short"]
    assert set(shares) == {"long", "short", "other", "loading (beside the step)"}
    assert shares["long"] + shares["short"] + shares["other"] == pytest.approx(1)
    assert 2 < shares["long"] / shares["short"] < 4
