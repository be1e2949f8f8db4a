"""What an epoch under way has added up, as plain values that a state of the run holds."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import Tensor


class RunningMetrics:
    """The metrics that a trainer updates in every step: running averages, and lines by iteration.

    Of a metric what is a tensor, a number, a text or made of these is carried, and so are metrics that it
    holds; its functions and devices are those it was built with.
    """

    def __init__(
        self, trainer: Engine, metrics: Mapping[str, Metric], *, across_epochs: Collection[str]
    ) -> None:
        """Carry `metrics`, attached to the trainer, by name; but `across_epochs`, they begin anew in each."""
        self._metrics, self._across_epochs = dict(metrics), set(across_epochs)
        self._pending: Mapping[str, Any] = {}
        # After the metrics' own handlers, which begin anew.
        trainer.add_event_handler(Events.EPOCH_STARTED, self._put_back)

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state of each metric."""
        return {name: _take(metric) for name, metric in self._metrics.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what each has added up: now, and once more when the trainer begins."""
        self._pending = state
        for name, metric in self._metrics.items():
            _put(metric, state[name])

    def _put_back(self, trainer: Engine) -> None:
        within = trainer.state.iteration % (trainer.state.epoch_length or 1)
        for name, values in self._pending.items():
            if within or name in self._across_epochs:
                _put(self._metrics[name], values)
        self._pending = {}


class Elapsed:
    """Seconds that a run has taken, over all its parts."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, float]:
        """The seconds until now."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Count on from what is given."""
        self._started, self._before = time.monotonic(), state["seconds"]


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
    """A copy of its own, since metrics add to theirs in place; tensors on the metric's device."""
    if isinstance(value, Tensor):
        return value.to(metric._device, copy=True)  # ignite has no public name for it
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
