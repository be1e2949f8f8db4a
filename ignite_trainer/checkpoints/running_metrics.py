"""Resumable state of the running metrics and the clock, as plain values."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import Tensor


class RunningMetrics:
    """State of the metrics that a trainer updates in every step: running averages and metrics of iterations.

    The state of a metric consists of its attributes that are tensors, numbers, strings, containers of these,
    or other metrics. Functions and devices are not saved; a restored metric keeps those it was built with.
    """

    def __init__(
        self, trainer: Engine, metrics: Mapping[str, Metric], *, across_epochs: Collection[str]
    ) -> None:
        """Save and restore metrics attached to `trainer`; those in `across_epochs` outlast an epoch."""
        self._metrics = dict(metrics)
        self._across_epochs = set(across_epochs)
        self._pending: Mapping[str, Any] = {}
        # Added after the metrics' own handlers, which reset them.
        trainer.add_event_handler(Events.EPOCH_STARTED, self._restore)

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state of each metric."""
        return {name: _take(metric) for name, metric in self._metrics.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore each metric now and, unless it was due to be reset, after the next start of an epoch."""
        self._pending = state
        for name, metric in self._metrics.items():
            _put(metric, state[name])

    def _restore(self, trainer: Engine) -> None:
        within = trainer.state.iteration % (trainer.state.epoch_length or 1)
        for name, values in self._pending.items():
            if within or name in self._across_epochs:
                _put(self._metrics[name], values)
        self._pending = {}


class Elapsed:
    """Duration of a run, including the time before it was resumed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Duration so far, in seconds."""
        return self._before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, float]:
        """Return the duration so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a saved duration."""
        self._started = time.monotonic()
        self._before = state["seconds"]


def _take(metric: Metric) -> dict[str, Any]:
    return {
        name: _take(value) if isinstance(value, Metric) else value
        for name, value in vars(metric).items()
        if isinstance(value, Metric) or _is_plain(value)
    }


def _put(metric: Metric, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        held = getattr(metric, name, None)
        if isinstance(held, Metric):
            _put(held, value)
        else:
            setattr(metric, name, _copy(value, metric))


def _copy(value: Any, metric: Metric) -> Any:
    """Copy a value, because metrics update theirs in place; put tensors on the metric's device."""
    if isinstance(value, Tensor):
        return value.to(metric._device, copy=True)  # ignite has no public name for the device
    if isinstance(value, list | tuple):
        return type(value)(_copy(item, metric) for item in value)
    if isinstance(value, dict):
        return {key: _copy(item, metric) for key, item in value.items()}
    return value


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(isinstance(key, str | int) for key in value) and all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str, Tensor)
