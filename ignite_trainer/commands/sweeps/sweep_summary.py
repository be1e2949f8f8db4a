"""Results of a sweep, as data and as text: each run, then means and standard deviations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import JsonValue as Json

from ignite_trainer.commands.sweeps.combinations import Combination, is_fold
from ignite_trainer.commands.sweeps.groups import SEED, Group, make_groups
from ignite_trainer.results.leakage import MEANING
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.formatting import (
    CHOSEN_ON,
    inert,
    markdown_table,
    readable,
    remarks_on_best,
    title_of_best,
)


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Pooled predictions from several folds.

    Attributes:
        held_out: number of pooled folds.
        folds: number of folds in the data set.
        samples: number of pooled samples.
        accuracy: accuracy over all samples; None if a sample can have several classes.
    """

    held_out: int
    folds: int
    samples: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """State of a sweep.

    Attributes:
        name: `Setup.name`.
        runs: all planned runs, in order.
        records: results of the finished runs, by name.
        failures: reasons for failures during this call, by run name.
        pooled: pooled predictions, or None; available once all runs are finished, if only the fold is swept
            and no two runs share a fold.
    """

    name: str
    runs: tuple[Combination, ...]
    records: Mapping[str, RunRecord]
    failures: Mapping[str, str]
    pooled: Pooled | None = None

    @property
    def missing(self) -> list[str]:
        """Names of the runs that are not finished."""
        return [run.name for run in self.runs if run.name not in self.records]

    @property
    def labels(self) -> list[str]:
        """Labels of the metrics."""
        records = [self.records[run.name] for run in self.runs if run.name in self.records]
        return list(dict.fromkeys(label for record in records for label in _labels(record)))

    @property
    def columns(self) -> list[tuple[str, Literal["last", "best"]]]:
        """Metric and epoch of each column of values; the best epoch only of metrics that have one."""
        columns: list[tuple[str, Literal["last", "best"]]] = []
        for label in self.labels:
            columns.append((label, "last"))
            if any(record.best_of(label) for record in self.records.values()):
                columns.append((label, "best"))
        return columns

    @property
    def keys(self) -> list[str]:
        """Swept keys."""
        return list(self.runs[0].values)

    @property
    def groups(self) -> list[Group]:
        """Groups of runs that are averaged together, in the order of their first runs."""
        return make_groups(self.runs, self.records, self.labels)


def to_json(summary: Summary) -> dict[str, Any]:
    """Convert to JSON types."""
    return {
        "name": summary.name,
        "keys": summary.keys,
        "missing": summary.missing,
        "runs": [_run_json(summary, run) for run in summary.runs],
        "groups": [
            {**asdict(group), "metrics": {label: pair.to_json() for label, pair in group.metrics.items()}}
            for group in summary.groups
        ],
        "pooled": asdict(summary.pooled) if summary.pooled else None,
    }


def to_cells(summary: Summary) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Return the header, a row for each run and a row for each mean."""
    header = ["run", *(key.rpartition(".")[-1] for key in summary.keys)]
    best = title_of_best(record.chosen_on for record in summary.records.values())
    header += [
        f"{label}, {'last epoch' if epoch == 'last' else best} (epoch)" for label, epoch in summary.columns
    ]
    runs = [
        [run.name, *map(_text, run.values.values()), *_run_cells(summary, run.name)] for run in summary.runs
    ]
    return header, runs, [_mean_row(summary, group) for group in summary.groups if group.finished]


def to_markdown(summary: Summary) -> str:
    """Write the table and its remarks as Markdown, for `sweep.md`."""
    header, runs, means = to_cells(summary)
    parts = [f"# Sweep of {inert(summary.name)}", markdown_table(header, [*runs, *means])]
    return "\n\n".join([*parts, *map(inert, remarks(summary))]) + "\n"


def remarks(summary: Summary) -> list[str]:
    """Return paragraphs that explain the table."""
    sentences = []
    if summary.missing:
        done = f"{len(summary.records)} of {len(summary.runs)} runs are finished."
        sentences.append(f"{done} Missing: {', '.join(summary.missing)}. Repeat the command to continue.")
    sentences += [f"{name} failed: {reason}" for name, reason in summary.failures.items()]
    sentences += _explain_means(summary)
    if summary.pooled:
        sentences.append(_describe_predictions(summary.pooled))
    cautions = {record.caution for record in summary.records.values()}
    sentences += [sentence for mark, sentence in MEANING.items() if mark in cautions]
    totals = {record.listed_samples for record in summary.records.values()}
    if len(totals) > 1:
        listed = ", ".join(map(str, sorted(totals)))
        sentences.append(f"The runs differ in the total number of samples in all splits: {listed}.")
    revisions = sorted({str(record.revision) for record in summary.records.values()})
    if len(revisions) > 1:
        sentences.append(f"The runs were made with different source revisions: {', '.join(revisions)}.")
    return sentences


def _explain_means(summary: Summary) -> list[str]:
    """Explain the means, why some are missing, and why the value of the last epoch is unbiased."""
    groups, sentences = summary.groups, []
    reasons = dict.fromkeys(group.no_mean for group in groups if group.no_mean)
    sentences += [f"No mean: {reason}" for reason in reasons]
    averaged = [group for group in groups if _has_deviation(group)]
    if averaged:
        of_folds = any(group.finished > group.parts > 1 for group in averaged)
        what = "n folds, after averaging the seeds of each" if of_folds else "n runs"
        sentences.append(f"± is the sample standard deviation over {what}.")
    trained = [record for record in summary.records.values() if record.epochs and record.best]
    sentences += dict.fromkeys(CHOSEN_ON[record.chosen_on] for record in trained)
    sentences += remarks_on_best(best.epoch for record in trained for best in record.best)
    return [" ".join(sentences)] if sentences else []


def _has_deviation(group: Group) -> bool:
    spreads = (spread for averages in group.metrics.values() for spread in averages)
    return any(spread is not None and spread.deviation is not None for spread in spreads)


def _describe_predictions(pooled: Pooled) -> str:
    if pooled.held_out == pooled.folds:
        which = f"all {pooled.folds} folds"
    else:
        which = f"the {pooled.held_out} folds held out (of {pooled.folds})"
    text = f"predictions.csv has the predictions on {which} after the last epoch: {pooled.samples} samples"
    if pooled.accuracy is None:
        return f"{text}."
    return (
        f"{text}; pooled accuracy {readable(pooled.accuracy)}. It weights every sample equally, while the "
        "mean weights every fold equally, so the two differ if folds differ in size."
    )


def _run_json(summary: Summary, run: Combination) -> dict[str, Any]:
    record = summary.records.get(run.name)
    if record is None:
        return {"run": run.name, "values": run.values, "failed": summary.failures.get(run.name)}
    metrics = {}
    for label in _labels(record):
        (last, best), of_best = record.value(label), record.best_of(label)
        metrics[label] = {"last": last, "best": best, "best_epoch": of_best and of_best.epoch}
    about = record.model_dump(
        include={"seed", "epochs", "samples", "held_out", "validation", "chosen_on"}, mode="json"
    )
    return {"run": run.name, "values": run.values, **about, "metrics": metrics}


def _run_cells(summary: Summary, name: str) -> list[str]:
    record = summary.records.get(name)
    if record is None:
        return ["failed" if name in summary.failures else "missing"] * len(summary.columns)
    cells = []
    for label, epoch in summary.columns:
        (last, best), of_best = record.value(label), record.best_of(label)
        if epoch == "last":
            cells.append(f"{_number(last)} ({record.epochs})" if label in record.last else "")
        else:
            cells.append(f"{_number(best)} ({of_best.epoch})" if of_best else "")
    return cells


def _mean_row(summary: Summary, group: Group) -> list[str]:
    n = str(group.finished) if group.finished == group.planned else f"{group.finished} of {group.planned}"
    if group.finished > group.parts > 1:
        n = f"{group.parts} folds, {n} runs"
    if group.no_mean:
        row = [f"no mean, n = {n}"]
    else:
        row = [f"mean ± sd, n = {n}" if group.finished > 1 else f"n = {n}"]
    for key in summary.keys:
        if is_fold(key):
            row.append(f"{len(group.held_out)} of {len(group.folds)} folds" if group.held_out else "")
        elif key == SEED:
            row.append(f"{len(group.seeds)} seed{'s' if len(group.seeds) > 1 else ''}")
        else:
            row.append(_text(group.values[key]))
    spreads = [getattr(group.metrics[label], epoch) for label, epoch in summary.columns]
    return row + [spread.text(readable) if spread else "" for spread in spreads]


def _labels(record: RunRecord) -> list[str]:
    return list(dict.fromkeys([*record.last, *(best.label for best in record.best)]))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None) -> str:
    return "not finite" if value is None else readable(value)
