"""Groups of runs in a sweep that are averaged together."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue as Json

from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.commands.sweeps.combinations import Combination, is_fold
from ignite_trainer.results.record import Averages, RunRecord

SEED = "Setup.seed"
_ORIGIN_SECTIONS = ("Model", "Dataset")
_HASH_DIGITS = 12
_REMEDY = "Rename the folders of the runs that you want to repeat, then run the command again."

Records = Mapping[str, RunRecord]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ only in fold and seed.

    Attributes:
        values: values of the other swept keys.
        planned: number of runs.
        finished: number of finished runs; the attributes below describe only these.
        parts: number of different held-out parts of the data set, usually folds.
        held_out: folds that some run held out.
        folds: all folds in the data set.
        seeds: seeds of the runs.
        metrics: mean of each metric, by label: over seeds within each part, then over parts. With a single
            part, it is the mean over runs.
        no_mean: reason for not averaging these runs, or None.
    """

    values: dict[str, Json]
    planned: int
    finished: int
    parts: int
    held_out: tuple[int, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, Averages]
    no_mean: str | None = None


def make_groups(runs: Sequence[Combination], records: Records, labels: Sequence[str]) -> list[Group]:
    """Group the planned runs that are averaged together, and average the metrics in `labels`.

    Groups are ordered by their first runs.
    """
    members: dict[str, list[Combination]] = defaultdict(list)
    origins: dict[str, dict[str, RunRecord]] = defaultdict(dict)
    for run in runs:
        members[json.dumps(_kept_apart(run.values))].append(run)
        if run.name in records:
            origins[_origin(run)][run.name] = records[run.name]
    return [
        _group(group, records, labels, no_mean=_mixture(origins[_origin(group[0])]))
        for group in members.values()
    ]


def varies_fold_alone(runs: Sequence[Combination]) -> bool:
    """Return whether the runs differ only in the fold."""
    return len(runs) > 1 and all(
        is_fold(key) or len({json.dumps(run.values[key]) for run in runs}) == 1 for key in runs[0].values
    )


def _group(
    runs: Sequence[Combination], records: Records, labels: Sequence[str], *, no_mean: str | None
) -> Group:
    found = {run.name: records[run.name] for run in runs if run.name in records}
    finished = list(found.values())
    no_mean = (
        no_mean
        or _difference(found, "learned from different weights", lambda each: _names(each.task_weights))
        or _overlap(found)
    )
    return Group(
        values=_kept_apart(runs[0].values),
        planned=len(runs),
        finished=len(found),
        parts=len({record.held_out for record in finished}),
        held_out=_union(record.held_out for record in finished),
        folds=_union(record.folds for record in finished),
        seeds=_union([record.seed] for record in finished),
        metrics={
            label: Averages(None, None) if no_mean else Averages.of(finished, label) for label in labels
        },
        no_mean=no_mean,
    )


def _mixture(records: Records) -> str | None:
    """Describe a difference in weights or data between runs that should share them, or return None.

    They can differ if files of weights or data were replaced between two calls.
    """
    parts = dict.fromkeys(record.held_out for record in records.values())
    by_part = [
        {name: record for name, record in records.items() if record.held_out == part} for part in parts
    ]
    differences = (
        _difference(records, "started from different weights", lambda record: _names(record.weights)),
        _difference(records, "used different data sets", lambda record: record.dataset),
        *(_difference(part, "had different numbers of samples", _sizes) for part in by_part),
    )
    return next(filter(None, differences), None)


def _difference(records: Records, what: str, key: Callable[[RunRecord], str]) -> str | None:
    """Describe how the runs differ in a value computed from their records; return None if they agree."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, record in records.items():
        names[key(record)].append(name)
    listed = "; ".join(f"{value} in {', '.join(runs)}" for value, runs in names.items())
    return f"the runs {what}: {listed}. {_REMEDY}" if len(names) > 1 else None


def _overlap(records: Records) -> str | None:
    """Name two runs that evaluated some of the same samples, or return None."""
    for (first, record), (second, other) in itertools.combinations(records.items(), 2):
        ours, theirs = set(record.held_out), set(other.held_out)
        if ours != theirs and (not ours or not theirs or ours & theirs):
            return (
                f"{first} and {second} evaluated some of the same samples; sweep folds that do not overlap."
            )
    return None


def _names(weights: Iterable[WeightsFile]) -> str:
    names = (f"{file.name} (sha256 {file.sha256[:_HASH_DIGITS]}...)" for file in weights)
    return " + ".join(names) or "random weights"


def _sizes(record: RunRecord) -> str:
    return " and ".join(f"{size} ({split})" for split, size in sorted(record.samples.items()))


def _origin(run: Combination) -> str:
    """Return the swept values that determine a run's weights and data set."""
    values = {
        key: value for key, value in _kept_apart(run.values).items() if key.split(".")[0] in _ORIGIN_SECTIONS
    }
    return json.dumps(values)


def _kept_apart(values: Mapping[str, Json]) -> dict[str, Json]:
    """Return the values of the keys that are not averaged over."""
    return {key: value for key, value in values.items() if key != SEED and not is_fold(key)}


def _union(numbers: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted(set(itertools.chain.from_iterable(numbers))))
