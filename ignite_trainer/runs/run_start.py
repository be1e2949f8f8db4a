"""The facts that a run states about itself when it starts or goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite_trainer.api import file_names
from ignite_trainer.api.reporter import Best, RunStart
from ignite_trainer.api.self_description import hold_nothing_out, results_name
from ignite_trainer.protocol.sections import ClassSpec, Protocol
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.runs.sample_media import RunGallery
from ignite_trainer.support.distributed import world_size
from ignite_trainer.training import metrics


def describe_start(
    protocol: Protocol,
    parts: Parts,
    folder: Path,
    environment: Mapping[str, Any],
    *,
    gone_on: str | None,
    best: tuple[Best, ...],
    caution: str,
) -> RunStart:
    """Describe a run in `folder`; if it does not begin, `gone_on` says from where, and it has its `best`."""
    setup = protocol.setup
    training = f"{parts.sizes['train']:,} samples, {len(parts.training):,} batches"
    weights = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in parts.initial_weights)
    trained = {
        **{f"Parameters {pattern}": text for pattern, text in parts.plan.summary.items()},
        **_optimization(protocol, parts),
        "Training split": training,
    }
    dataset = parts.evaluation["test"].dataset
    is_whole = hold_nothing_out(parts.evaluation["train"].dataset, dataset)
    facts = {
        "Started": environment["started"],
        "Model": protocol.model.path,
        "Initial weights": weights or "random, unless the model loads some itself",
        "Device": environment["accelerator"] or f"{parts.device} ({_threads(environment['threads'])})",
        "Precision": setup.precision,
        "Seed": str(environment["seed"]),
        **(trained if setup.epochs else {}),
        "Data": results_name(dataset),
        "Evaluated" if is_whole else "Held-out split": f"{parts.sizes['test']:,} samples",
        **({"Goes on from": gone_on} if gone_on else {}),
        "Results": str(folder),
    }
    return RunStart(
        folder=folder,
        name=f"{setup.name} {folder.name}",
        protocol=protocol.to_json(),
        environment=environment,
        facts=facts,
        windows=metrics.windows(protocol),
        epochs=setup.epochs,
        iterations_per_epoch=len(parts.training),
        best=best,
        caution=caution,
        sweep=f"{setup.name} {folder.parent.name}" if (folder.parent / file_names.SWEEP).exists() else None,
        gallery=RunGallery(parts, epochs=setup.epochs),
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _optimization(protocol: Protocol, parts: Parts) -> dict[str, str]:
    """Name optimizer, learning rates, schedule and batch of a run that trains."""
    if parts.optimizer is None or protocol.optimizer is None:
        return {}
    setup = protocol.setup
    # A schedule that warms up has lowered the rate by now, and keeps the one it goes up to.
    groups = parts.optimizer.param_groups
    rates = [f"{group.get('initial_lr', group['lr']):g}" for group in groups if "lr" in group]
    schedule = "; ".join(_call(spec) for spec in protocol.schedules.values())
    batch = f"{setup.batch_of_all(world_size(), train=True):,} samples"
    return {
        "Optimizer": _call(protocol.optimizer, without="lr"),
        **({"Learning rate": ", ".join(rates if len(set(rates)) > 1 else rates[:1])} if rates else {}),
        **({"Schedule": schedule} if schedule else {}),
        "Batch": f"{batch}, {setup.accumulate} batches a step" if setup.accumulate > 1 else batch,
    }


def _call(spec: ClassSpec, *, without: str = "") -> str:
    """A class and its arguments, such as "SGD (momentum 0.9)"."""
    args = ", ".join(f"{key} {json.dumps(value)}" for key, value in spec.args.items() if key != without)
    name = spec.path.rpartition(".")[-1]
    return f"{name} ({args})" if args else name
