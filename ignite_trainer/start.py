"""What a run that begins, or goes on, says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite_trainer import metrics
from ignite_trainer.assembly import Parts
from ignite_trainer.gallery import RunGallery
from ignite_trainer.protocol import Protocol
from ignite_trainer.reporters.reporter import RunStart
from ignite_trainer.self_description import folds, held_out_folds, results_name


def describe_start(
    protocol: Protocol, parts: Parts, folder: Path, environment: Mapping[str, Any], *, gone_on: str | None
) -> RunStart:
    """Describe a run in `folder`; `gone_on` says from where, if it does not begin."""
    setup = protocol.setup
    training = f"{parts.sizes['train']:,} samples, {len(parts.training):,} batches"
    weights = ", ".join(f"{file.name} (sha256 {file.sha256[:12]}...)" for file in parts.initial_weights)
    trained = {
        **{f"Parameters {pattern}": text for pattern, text in parts.plan.summary.items()},
        "Training split": training,
    }
    dataset = parts.evaluation["test"].dataset
    is_part = bool(held_out_folds(dataset)) or not folds(dataset)
    facts = {
        "Device": environment["accelerator"] or f"{parts.device} ({environment['threads']} threads)",
        "Precision": setup.precision,
        "Seed": str(environment["seed"]),
        **({"Initial weights": weights} if weights else {}),
        **(trained if setup.epochs else {}),
        "Data": results_name(dataset),
        "Held-out split" if is_part else "Evaluated": f"{parts.sizes['test']:,} samples",
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
        sweep=f"{setup.name} {folder.parent.name}" if (folder.parent / "sweep.json").exists() else None,
        gallery=RunGallery(parts, epochs=setup.epochs),
    )
