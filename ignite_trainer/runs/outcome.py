"""The record of a run that has ended, from its protocol and parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ignite_trainer.api import self_description
from ignite_trainer.api.evaluation import FigureTable
from ignite_trainer.api.reporter import RunEnd
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.identity import digest, identity, shown_line
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs.assembly import Parts

# Metrics, by the names of their classes, whose values are shares of 1; others are shown as they are.
_SHARES = frozenset(
    {
        *("Accuracy", "MacroAccuracy", "TopKCategoricalAccuracy"),
        *("Precision", "Recall", "AveragePrecision", "MeanAveragePrecision"),
    }
)


def describe_run(
    blueprint: Blueprint,
    parts: Parts,
    end: RunEnd,
    *,
    evaluations: Mapping[str, FigureTable],
    multilabel: bool,
    revision: str | None,
    caution: str,
) -> RunRecord:
    """Describe a run that has ended."""
    train, dataset = parts.evaluation["train"].dataset, parts.evaluation["test"].dataset
    protocol = blueprint.protocol
    computed = identity(protocol, blueprint.classes)
    shown = shown_line(protocol)
    assert protocol.setup.seed is not None, "a run has a seed"
    return RunRecord(
        name=protocol.setup.name,
        suffix=protocol.setup.suffix,
        variant=digest(computed),
        identity=computed,
        setting=protocol.table.setting or ("trained" if protocol.setup.epochs else "evaluated"),
        model=protocol.model.path.rpartition(".")[-1],
        weights=parts.initial_weights,
        caution=caution,
        dataset=self_description.results_name(dataset),
        whole_name=self_description.whole_name(dataset),
        samples={str(split): size for split, size in parts.sizes.items()},
        digest=self_description.digest(dataset),
        held_out=self_description.held_out_folds(dataset),
        held_out_splits=self_description.held_out_splits(dataset),
        folds=self_description.folds(dataset),
        nothing_held_out=self_description.hold_nothing_out(train, dataset),
        seed=protocol.setup.seed,
        epochs=protocol.setup.epochs,
        metric=shown.line_label if shown else None,
        share=shown is not None and shown.path.rpartition(".")[-1] in _SHARES,
        listed=protocol.table.listed,
        last=dict(end.last),
        best=tuple(
            replace(best, checkpoint=best.checkpoint and Path(best.checkpoint.name)) for best in end.best
        ),
        evaluations={name: dict(table) for name, table in evaluations.items()},
        multilabel=multilabel,
        published=tuple(protocol.table.published),
        checkpoint=WeightsFile.of(end.last_checkpoint) if end.last_checkpoint else None,
        revision=revision,
        seconds=end.seconds,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        faults=dict(end.faults),
    )
