"""Which results make one cell of the table of all results, and what the rows of it are called."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue as Json

from ignite_trainer.protocol.identity import digest
from ignite_trainer.protocol.validation import json_path
from ignite_trainer.results.record import RunRecord
from ignite_trainer.results.spread import Figures

HASH_DIGITS = 12
_NAMED_KEYS = 3  # at most, that tell a row from others; more are not read
_LONGEST_VALUE = 40  # characters

HeldOut = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finished run.

    Attributes:
        folder: its own, relative to the root of results.
        record: what it reached.
        identity: what it computed, as `identity.identity` says; empty where that cannot be read.
        has_report: whether there is a `report.html`.
    """

    folder: str
    record: RunRecord
    identity: Mapping[str, Any] = field(default_factory=dict)
    has_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Runs that differ at most in fold and seed: one cell.

    Attributes:
        runs: those that are averaged, by fold and seed; of equal ones the latest.
        earlier: the others of these folds and seeds, in the order in which they finished.
        row: model and weights, and what else tells its row from others.
        column: data set and setting.
    """

    runs: tuple[Found, ...]
    earlier: tuple[Found, ...] = ()
    row: str
    column: str

    @property
    def newest(self) -> RunRecord:
        """The run that was finished last."""
        return max(self.runs, key=lambda run: run.record.finished).record

    @property
    def figures(self) -> Figures:
        """The metric that the table shows, over the runs."""
        return Figures.of((run.record for run in self.runs), self.newest.metric or "")

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of 1, which is shown in per cent."""
        return self.newest.share

    @property
    def is_whole(self) -> bool:
        """Whether the figure covers all that published ones do, by models not trained on it."""
        if self.newest.is_of_training_data or self.cautions:
            return False
        held_out = self._held_out
        return not held_out or held_out == {fold for run in self.runs for fold in run.record.folds}

    @property
    def extent(self) -> str:
        """What was evaluated, such as "5 of 5 folds", "fold 1 of 5", "held-out part", "whole set"."""
        held_out = sorted(self._held_out)
        folds = {fold for run in self.runs for fold in run.record.folds}
        seeds = len({run.record.seed for run in self.runs})
        if not held_out:
            what = self.newest.evaluated
        elif len(held_out) == 1:
            what = f"fold {held_out[0]} of {len(folds)}"
        else:
            what = f"{len(held_out)} of {len(folds)} folds"
        said = [what, *([f"{seeds} seeds"] if seeds > 1 else [])]
        said += [f"{len(self.runs)} runs"] if seeds > 1 and len(held_out) > 1 else []
        return ", ".join([*said, *self.cautions])

    @property
    def cautions(self) -> list[str]:
        """Cautions about the initial weights, as in `RunRecord.caution`."""
        return sorted({run.record.caution for run in self.runs} - {""})

    @property
    def published(self) -> float | None:
        """The figure published for this data set, setting and metric, and one of these weights.

        None unless what was evaluated is the whole data set.
        """
        record = self.newest
        ours = {weights.sha256 for weights in record.weights}
        figures = (
            one.value
            for one in record.published
            if (one.dataset, one.setting, one.metric or record.metric)
            == (record.dataset, record.setting, record.metric)
            and one.weights in ours
        )
        return next(figures, None) if self.is_whole else None

    @property
    def _held_out(self) -> set[int]:
        return {fold for run in self.runs for fold in run.record.held_out}


def make_entries(found: Iterable[Found]) -> list[Entry]:
    """Put results together in cells, ordered by row and column."""
    listed = [run for run in found if run.record.metric is not None and run.record.listed]
    cells: dict[tuple[Any, ...], dict[tuple[str, ...], list[Found]]] = defaultdict(dict)
    models: dict[tuple[Any, ...], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(listed, key=lambda run: (run.record.finished, run.folder)):
        cells[_cell(run)].setdefault(_kind(run.record), []).append(run)
        models[run.record.model, _hashes(run.record)][_arguments(run)].append(run)
    labels = _weights_labels([run.record for run in listed])
    built = {key: _labels("arguments", groups, section="Model") for key, groups in models.items()}
    entries = []
    for kinds in map(_told_apart, cells.values()):
        variants: dict[str, list[Found]] = defaultdict(list)
        for kind, runs in kinds.items():
            variants[kind[0]] += runs
        named = _labels("variant", variants)
        told = {kind: (named[kind[0]], *kind[1:]) for kind in kinds}
        for kind, runs in kinds.items():
            record = runs[0].record
            weights = _hashes(record)
            how = built[record.model, weights][_arguments(runs[0])]
            row = [record.model, labels[weights], *([how] if how else [])]
            row += _differing(told[kind], told.values())
            column = f"{record.dataset}, {record.setting}"
            latest = {(run.record.held_out, run.record.seed): run for run in runs}.values()
            apart = _apart(run.record.held_out for run in runs)
            for sets in apart:
                members = [run for run in latest if run.record.held_out in sets]
                ordered = sorted(members, key=lambda run: (run.record.held_out, run.record.seed))
                earlier = [run for run in runs if run.record.held_out in sets and run not in members]
                which = [f"held out {' and '.join(map(_joined, sets))}"] if len(apart) > 1 else []
                entries.append(
                    Entry(
                        runs=tuple(ordered),
                        earlier=tuple(earlier),
                        row=", ".join([*row, *which]),
                        column=column,
                    )
                )
    return sorted(entries, key=lambda entry: (entry.row, entry.column))


def _cell(run: Found) -> tuple[Any, ...]:
    record = run.record
    return record.model, _hashes(record), _arguments(run), record.dataset, record.setting


def _arguments(run: Found) -> str:
    """Tell models of one class apart by their arguments, those that name files of weights aside."""
    return digest(run.identity.get("Model"))


def _kind(record: RunRecord) -> tuple[str, str, str]:
    """What makes several cells of one, each in a row of its own; the variant is given a name later."""
    if not record.held_out:
        extent = record.evaluated
    else:
        extent = "folds" if len(record.held_out) == 1 else f"{len(record.held_out)} folds a run"
    return record.variant, str(record.metric), extent


def _told_apart(kinds: Mapping[tuple[str, ...], list[Found]]) -> dict[tuple[str, ...], list[Found]]:
    """Part runs of one kind that differ in the size of their data or, with equal folds, in name or suffix."""
    result: dict[tuple[str, ...], list[Found]] = {}
    for kind, runs in kinds.items():
        named = _repeats((run.record.name, run.record.held_out) for run in runs)
        suffixed = _repeats((run.record.suffix, run.record.held_out) for run in runs)
        sized = len({_samples(run.record) for run in runs}) > 1
        for run in runs:
            suffix = f"suffix {run.record.suffix}" if run.record.suffix else "no suffix"
            size = f"{_samples(run.record):,} samples"
            part = (run.record.name if named else "", suffix if suffixed else "", size if sized else "")
            result.setdefault((*kind, *part), []).append(run)
    return result


def _repeats(held_out: Iterable[tuple[str | None, HeldOut]]) -> bool:
    """Return whether one fold has several names; otherwise the names may be those of the folds."""
    pairs = set(held_out)
    return len(pairs) > len({folds for _, folds in pairs})


def _samples(record: RunRecord) -> int:
    """Number of samples of the whole data set, or of what was evaluated where it has no folds."""
    return sum(record.samples.values()) if record.held_out else record.samples.get("test", 0)


def _differing(kind: tuple[str, ...], kinds: Iterable[tuple[str, ...]]) -> list[str]:
    """What of a kind is not the same for all."""
    return [one for one, *others in zip(kind, *kinds, strict=True) if one and len(set(others)) > 1]


def _apart(held_out: Iterable[HeldOut]) -> list[list[HeldOut]]:
    """Put what runs held out into groups in which no two overlap, so that each may be averaged."""
    groups: list[list[HeldOut]] = []
    for one in sorted(set(held_out)):
        free = (group for group in groups if not any(set(one) & set(other) for other in group))
        group = next(free, None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups


def _joined(folds: HeldOut) -> str:
    return "+".join(map(str, folds))


def _hashes(record: RunRecord) -> tuple[str, ...]:
    return tuple(weights.sha256 for weights in record.weights)


def _weights_labels(records: Sequence[RunRecord]) -> dict[tuple[str, ...], str]:
    """Label weights by the names of their files, with hashes where several share a name."""
    names = {_hashes(record): " + ".join(file.name for file in record.weights) for record in records}
    taken = list(names.values())
    return {
        hashes: name
        if taken.count(name) == 1
        else f"{name} ({' + '.join(sha256[:HASH_DIGITS] for sha256 in hashes)})"
        for hashes, name in names.items()
    } | {(): "random weights"}


def _labels(
    what: str, groups: Mapping[str, Sequence[Found]], *, section: str | None = None
) -> dict[str, str]:
    """Label each group of runs by what tells it from the others; a single group needs no label.

    The label is the key that differs, if only one does; otherwise the protocol's name, a few keys ("..." if
    more differ), or the group's digest, whichever comes first and is unique.

    Args:
        what: what the digests identify, such as "variant".
        groups: runs by the digest of their group.
        section: the section of the protocols to compare; None compares all sections.
    """
    if len(groups) == 1:
        return dict.fromkeys(groups, "")
    values = {
        group: dict(_flat({key: part for key, part in runs[-1].identity.items() if section in (None, key)}))
        for group, runs in groups.items()
    }
    names = {group: {run.record.name for run in runs} for group, runs in groups.items()}
    of_one_group = {name for each in names.values() if len(each) == 1 for name in each}
    every = sorted({key for each in values.values() for key in each})
    differing = [key for key in every if len({_text(each, key) for each in values.values()}) > 1]
    keys = _distinguishing_keys(values, differing) if all(values.values()) else []
    if len(differing) > 1 and len(of_one_group) == len(groups):
        return {group: "".join(each) for group, each in names.items()}
    if not keys:
        return {group: f"{what} {group}" for group in groups}
    more = ["..."] if len(differing) > len(keys) else []
    return {
        group: ", ".join([*(f"{key} {_text(each, key)}" for key in keys), *more])
        for group, each in values.items()
    }


def _distinguishing_keys(values: Mapping[str, Mapping[str, Json]], differing: Sequence[str]) -> list[str]:
    """Choose a few keys whose values tell all groups apart; return none if that takes too many."""
    chosen: list[str] = []

    def apart(key: str) -> tuple[int, bool]:
        texts = {tuple(_text(each, one) for one in (*chosen, key)) for each in values.values()}
        return len(texts), all(key in each for each in values.values())

    while differing and len(chosen) < _NAMED_KEYS:
        chosen.append(max(differing, key=apart))
        if apart(chosen[-1])[0] == len(values):
            return chosen
    return []


def _flat(value: Json, location: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Json]]:
    """The values at the ends of JSON, by their paths; what is empty has none."""
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(inner, (*location, step))
    else:
        yield json_path(location), value


def _text(values: Mapping[str, Json], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
