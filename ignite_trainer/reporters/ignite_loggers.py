"""Adapter that makes ignite's loggers (TensorBoard, Weights & Biases, MLflow and others) reporters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.base_logger import BaseLogger

from ignite_trainer.api.reporter import SPLIT_NAMES, Evaluated, Event, Iteration, Reporter, RunStart
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.support.errors import ProtocolError

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "ClearMLLogger": ("clearml",),
    "MLflowLogger": ("mlflow",),
    "NeptuneLogger": ("neptune",),
    "PolyaxonLogger": ("polyaxon",),
    "TensorboardLogger": ("tensorboard", "tensorboardX"),
    "VisdomLogger": ("visdom",),
    "WandBLogger": ("wandb",),
}
"""Packages that each logger can use, by class name. It needs one of them; messages suggest the first."""


def build_reporter(kind: type[Reporter | BaseLogger], args: Mapping[str, Any], *, where: str) -> Reporter:
    """Build a reporter from an entry of `Reporters`; wrap ignite's loggers in an `IgniteLogger`.

    `where` is the JSON path of the entry. Raise a ProtocolError if the class does not accept the arguments.
    """
    if issubclass(kind, BaseLogger):
        return IgniteLogger(kind, args)
    return build(kind, args, where=where)


def require_loggers(reporters: Iterable[tuple[type[Reporter | BaseLogger], Mapping[str, Any]]]) -> None:
    """Raise a ProtocolError that lists all loggers in `Reporters` whose packages are not installed."""
    problems = []
    for index, (kind, _) in enumerate(reporters):
        name = kind.__name__
        packages = _PACKAGES.get(name, ()) if issubclass(kind, BaseLogger) else ()
        if packages and not any(map(find_spec, packages)):
            problems.append(
                f"Reporters[{index}].class is {name}, but {packages[0]} is not installed: run `pip install "
                f"{packages[0]}`, or remove the entry."
            )
    if problems:
        raise ProtocolError(problems)


class IgniteLogger(Reporter):
    """Forwards losses, learning rates and metrics to one of ignite's loggers.

    Args:
        kind: class of the logger.
        args: arguments of the logger. In strings, `{folder}` is replaced by the run's folder and `{name}` by
            the run's name.
    """

    def __init__(self, kind: type[BaseLogger], args: Mapping[str, Any]) -> None:
        self._kind = kind
        self._args = args
        self._logger: BaseLogger | None = None
        self._engines: dict[str, Engine] = {}

    def on_start(self, run: RunStart) -> None:
        """Create the logger."""
        words = {"{folder}": str(run.folder), "{name}": run.name}
        self._logger = self._kind(**{key: _filled(value, words) for key, value in self._args.items()})

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:  # noqa: ARG002
        """Create the logger, whose output already contains the history."""
        self.on_start(run)

    def on_iteration(self, step: Iteration) -> None:
        """Log the training progress."""
        rates = {f"learning rate {number}": rate for number, rate in enumerate(step.learning_rates, start=1)}
        values = {"loss": step.loss, "samples per second": step.samples_per_second, **rates, **step.metrics}
        self._log("training", step.iteration, values)

    def on_evaluation(self, result: Evaluated) -> None:
        """Log a split's metrics."""
        self._log(f"{SPLIT_NAMES[result.split]} set", result.epoch, result.metrics)

    def close(self) -> None:
        """Close the logger."""
        if self._logger is not None:
            self._logger.close()
            self._logger = None

    def _log(self, tag: str, step: int, values: Mapping[str, float]) -> None:
        assert self._logger is not None, "on_start comes first"
        if tag not in self._engines:
            # Loggers read values from an engine; this engine only holds the values.
            engine = self._engines[tag] = Engine(lambda *_: None)
            self._logger.attach_output_handler(
                engine,
                event_name=Events.COMPLETED,
                tag=tag,
                metric_names="all",
                global_step_transform=lambda engine, _: engine.state.iteration,
            )
        engine = self._engines[tag]
        engine.state.metrics, engine.state.iteration = dict(values), step
        engine.fire_event(Events.COMPLETED)


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for mark, text in words.items():
            value = value.replace(mark, text)
    return value
