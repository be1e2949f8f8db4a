"""Which runs of a sweep are averaged together, over what, and why some are not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue as Json

from ignite_trainer.commands.sweeps.combinations import Combination, is_fold
from ignite_trainer.results.record import Figures, RunRecord

SEED = "Setup.seed"
_OF_THE_ORIGIN = ("Model", "Dataset")
_HASH_DIGITS = 12
_MEND = "Rename the folders of those that shall be done again, and give the same command."

Records = Mapping[str, RunRecord]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in fold and seed alone.

    Attributes:
        values: of the other swept keys.
        planned: number of its runs; the figures are of those that are finished.
        parts: number of different parts of the data set that these have held out: of folds, as a rule.
        held_out: numbers of all folds that these have held out.
        folds: numbers of all folds of the data set.
        seeds: of the finished ones.
        metrics: by label; means over the parts, each over its seeds first, or over the seeds of a single one.
        no_mean: why there are none of these; None if there are.
    """

    values: dict[str, Json]
    planned: int
    finished: int
    parts: int
    held_out: tuple[int, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, Figures]
    no_mean: str | None = None


def make_groups(runs: Sequence[Combination], records: Records, labels: Sequence[str]) -> list[Group]:
    """Put runs together that are averaged, in the order of their first ones.

    Args:
        runs: all that are planned.
        records: what the finished ones reached, by the name of the run.
        labels: of the metrics.
    """
    origins: dict[str, Records] = {}
    for run in runs:
        if run.name in records:
            key = _origin(run)
            origins[key] = {**origins.get(key, {}), run.name: records[run.name]}
    members: dict[str, list[Combination]] = {}
    for run in runs:
        members.setdefault(json.dumps(_kept_apart(run.values)), []).append(run)
    return [
        _group(group, records, labels, no_mean=_mixture(origins.get(_origin(group[0]), {})))
        for group in members.values()
    ]


def varies_fold_alone(runs: Sequence[Combination]) -> bool:
    """Whether runs differ in the fold, and in nothing else."""
    return len(runs) > 1 and all(
        is_fold(key) or len({json.dumps(run.values[key]) for run in runs}) == 1 for key in runs[0].values
    )


def _group(
    runs: Sequence[Combination], records: Records, labels: Sequence[str], *, no_mean: str | None
) -> Group:
    found = {run.name: records[run.name] for run in runs if run.name in records}
    reached = list(found.values())
    no_mean = no_mean or _overlap(found)
    return Group(
        values=_kept_apart(runs[0].values),
        planned=len(runs),
        finished=len(found),
        parts=len({record.held_out for record in reached}),
        held_out=_union(record.held_out for record in reached),
        folds=_union(record.folds for record in reached),
        seeds=_union([record.seed] for record in reached),
        metrics={label: Figures(None, None) if no_mean else Figures.of(reached, label) for label in labels},
        no_mean=no_mean,
    )


def _mixture(records: Records) -> str | None:
    """Say in what runs differ that a sweep means to be equal; None if all is well.

    A file of weights or of data may be replaced by another of its name between two calls.
    """
    weights = _names_by(records, _weights)
    if len(weights) > 1:
        return f"the initial weights are not the same: {_listed(weights)}. {_MEND}"
    data_sets = _names_by(records, lambda record: record.dataset)
    if len(data_sets) > 1:
        return f"the data sets are not the same: {_listed(data_sets)}. {_MEND}"
    for names in _names_by(records, lambda record: str(record.held_out)).values():
        sizes = _names_by({name: records[name] for name in names}, _sizes)
        if len(sizes) > 1:
            return f"the numbers of samples are not the same: {_listed(sizes)}. {_MEND}"
    return None


def _overlap(records: Records) -> str | None:
    """Say which runs evaluated partly the same samples; None if any two have either all or none in common."""
    for (first, one), (second, other) in itertools.combinations(records.items(), 2):
        held_out, too = set(one.held_out), set(other.held_out)
        if held_out != too and (not held_out or not too or held_out & too):
            return f"{first} and {second} evaluated partly the same samples; sweep folds that do not overlap."
    return None


def _names_by(records: Records, key: Callable[[RunRecord], str]) -> dict[str, list[str]]:
    """Names of runs, by what their records say."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        found.setdefault(key(record), []).append(name)
    return found


def _listed(names: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{what} in {', '.join(runs)}" for what, runs in names.items())


def _weights(record: RunRecord) -> str:
    names = (f"{file.name} (sha256 {file.sha256[:_HASH_DIGITS]}...)" for file in record.weights)
    return " + ".join(names) or "random weights"


def _sizes(record: RunRecord) -> str:
    return " and ".join(f"{size} ({split})" for split, size in sorted(record.samples.items()))


def _origin(run: Combination) -> str:
    """The swept values that decide which weights and which data set a run has."""
    values = {
        key: value for key, value in _kept_apart(run.values).items() if key.split(".")[0] in _OF_THE_ORIGIN
    }
    return json.dumps(values)


def _kept_apart(values: Mapping[str, Json]) -> dict[str, Json]:
    """The values of the keys that are not averaged over."""
    return {key: value for key, value in values.items() if key != SEED and not is_fold(key)}


def _union(numbers: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted(set(itertools.chain.from_iterable(numbers))))
