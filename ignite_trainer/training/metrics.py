"""The `Metrics` section: ignite metrics attached to engines, and their charts."""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import MetricUsage
from torch import Tensor

from ignite_trainer.api.reporter import Line, Split, Window
from ignite_trainer.api.task import StepOutput
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import LineSpec, Protocol
from ignite_trainer.support.distributed import as_single_process
from ignite_trainer.support.errors import ProtocolError

# As in the published labels "Val. Acc. Train." and "Val. Acc. Eval.".
_SPLIT_LABELS: dict[Split, str] = {"train": "Train.", "validation": "Valid.", "test": "Eval."}


def logged_steps(every: int) -> Any:
    """Return the event of logged training steps: every `every` steps, and at the last step of each epoch."""

    def is_logged(trainer: Engine, step: int) -> bool:
        return step % every == 0 or step % (trainer.state.epoch_length or 1) == 0

    return Events.ITERATION_COMPLETED(event_filter=is_logged)


def read_back(*, started: Events, every: int) -> MetricUsage:
    """Return the usage of a metric that is updated in each training step but read only in logged steps.

    Reading the value makes the host wait for the device. Batches of skipped steps have no loss and do not
    count. The metric is reset at `started`; see `logged_steps` for `every`.
    """
    taken: Any = Events.ITERATION_COMPLETED(
        event_filter=lambda trainer, _: trainer.state.output.loss is not None
    )
    return MetricUsage(started=started, completed=logged_steps(every), iteration_completed=taken)


def attach_metrics(blueprint: Blueprint, evaluator: Engine, split: Split, *, device: torch.device) -> None:
    """Attach the protocol's metrics for a split to its evaluator; empty batches do not count."""
    read: Any = Events.ITERATION_COMPLETED(event_filter=lambda engine, _: engine.state.output is not None)
    usage = MetricUsage(
        started=Events.EPOCH_STARTED, completed=Events.EPOCH_COMPLETED, iteration_completed=read
    )
    for where, line in blueprint.protocol.lines.items():
        if line.update_rate == "epoch" and split in _splits(line):
            _metric(blueprint, where, line, device).attach(evaluator, line.line_label, usage)


def try_metrics(blueprint: Blueprint, outputs: Sequence[StepOutput]) -> list[str]:
    """Compute the metrics with the update rate "epoch" on synthetic outputs of evaluation steps.

    Args:
        blueprint: blueprint of the run.
        outputs: an example of each possible form of output.

    Returns:
        Error messages with JSON paths, one for each metric that accepts none of the outputs.
    """
    problems = []
    for where, line in blueprint.protocol.lines.items():
        if line.update_rate == "epoch":
            errors = [_trial(blueprint, where, line, output) for output in outputs]
            if errors and all(errors):
                problems.append(errors[0])
    return problems


def _trial(blueprint: Blueprint, where: str, line: LineSpec, output: StepOutput) -> str:
    """Compute a metric on one output; return its error message, or "" if it works."""
    metric = _metric(blueprint, where, line, torch.device("cpu"))
    try:
        with warnings.catch_warnings(record=True):  # warnings about the made-up scores
            metric.reset()
            metric.update(_read_part(type(metric))(output))
            _number(metric.compute(), line.line_label)
    except NotComputableError:
        return ""
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        columns = f"; the task scores {output.y_pred.shape[1]} classes" if output.y_pred.dim() == 2 else ""
        return f"{where}: {str(error).rstrip('.')}{columns}."
    return ""


def attach_running_metrics(
    blueprint: Blueprint, trainer: Engine, *, device: torch.device
) -> dict[str, Metric]:
    """Attach the metrics with the update rate "iteration" to the trainer; return them by label."""
    usage = read_back(started=Events.EPOCH_STARTED, every=blueprint.protocol.setup.log_interval)
    attached = {}
    for where, line in blueprint.protocol.lines.items():
        if line.update_rate == "iteration":
            metric = attached[line.line_label] = _metric(blueprint, where, line, device)
            metric.compute = _nan_of_nothing(metric.compute)  # type: ignore[method-assign]
            metric.attach(trainer, line.line_label, usage)
    return attached


def values(engine: Engine, protocol: Protocol) -> dict[str, float]:
    """Return the values of the protocol's metrics that an engine has computed, by label."""
    computed = engine.state.metrics
    labels = [line.line_label for line in protocol.lines.values()]
    return {label: _number(computed[label], label) for label in labels if label in computed}


def windows(protocol: Protocol, evaluated: Collection[Split]) -> tuple[Window, ...]:
    """Return the charts of the protocol, as reporters draw them, with lines for the evaluated splits."""
    return tuple(
        Window(
            name=window.window_name or name,
            x_label=window.x_label,
            y_label=window.y_label,
            width=window.width,
            height=window.height,
            lines=tuple(
                Line(
                    key=line.line_label,
                    label=f"{line.line_label} {_SPLIT_LABELS[split]}",
                    split=split,
                    by_iteration=line.update_rate == "iteration",
                )
                for line in window.lines
                for split in _splits(line)
                if split in evaluated
            ),
        )
        for name, window in protocol.metrics.items()
    )


def scores_and_targets(output: StepOutput) -> tuple[Tensor, Tensor]:
    """Return the part of a step's output that ignite's metrics use."""
    return output.y_pred, output.y


def _read_part(kind: Callable[..., Any]) -> Callable[[StepOutput], Any]:
    """Return the function that selects a metric's input; with the attribute `reads_features`, all of it."""
    return (lambda output: output) if getattr(kind, "reads_features", False) else scores_and_targets


def _metric(blueprint: Blueprint, where: str, line: LineSpec, device: torch.device) -> Metric:
    """Build a metric that accumulates on the device if it can, so that no step waits for the metric."""
    kind = blueprint.metrics[where]
    args: dict[str, Any] = {**line.args, "output_transform": _read_part(kind)}
    if "device" in inspect.signature(kind).parameters:
        args.setdefault("device", device)
    metric = build(kind, args, where=where)
    metric.update = _named(metric.update, line)  # type: ignore[method-assign, assignment]
    return without_reduction(metric)


M = TypeVar("M", bound=Metric)


def without_reduction(metric: M) -> M:
    """Keep a metric from reducing over the processes, because each of them gets the outputs of all."""
    metric.update = as_single_process()(metric.update)  # type: ignore[method-assign]
    metric.compute = as_single_process()(metric.compute)  # type: ignore[method-assign]
    return metric


def _named(update: Callable[[Any], None], line: LineSpec) -> Callable[[Any], None]:
    """Add the metric's name to errors about outputs that the metric does not accept."""

    def update_or_name(output: Any) -> None:
        try:
            update(output)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            arguments = f" with {json.dumps(line.args)}" if line.args else ""
            raise ValueError(f'the metric "{line.line_label}"{arguments}: {error}.') from error

    return update_or_name


def _nan_of_nothing(compute: Callable[[], Any]) -> Callable[[], Any]:
    """Make a metric return nan if it has seen no sample because all steps were skipped."""

    def compute_or_nan() -> Any:
        try:
            return compute()
        except NotComputableError:
            return math.nan

    return compute_or_nan


def _splits(line: LineSpec) -> list[Split]:
    """Return the splits on which a metric is computed; on the validation split, if on the held-out split."""
    if line.update_rate == "iteration":
        return ["train"]
    return [*["train"] * line.train, *["validation", "test"] * line.test]  # type: ignore[list-item]


def _number(value: Any, label: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
        raise ProtocolError(
            f'The metric "{label}" returns a {type(value).__name__} {what}, but a line needs a single '
            "number; add arguments that make it return one, such as an average."
        ) from error
