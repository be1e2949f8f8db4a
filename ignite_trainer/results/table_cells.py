"""Groups results into the cells of the table of all results, and names the table's rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue as Json

from ignite_trainer.protocol.identity import digest, values_by_path
from ignite_trainer.protocol.sections import PublishedResult
from ignite_trainer.results.record import Averages, RunRecord, Spread

HASH_DIGITS = 12
_MAX_KEYS = 3  # in a row's name
_MAX_VALUE_LENGTH = 40  # characters


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finished run.

    Attributes:
        folder: run folder, relative to the root of results.
        record: content of the run's `result.json`.
        identity: everything in the run's protocol that affects the result; empty if it is unreadable.
        has_report: True if the run has a `report.html`.
    """

    folder: str
    record: RunRecord
    identity: Mapping[str, Any] = field(default_factory=dict)
    has_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell of the table: runs that differ only in fold and seed.

    Attributes:
        runs: runs to average: the latest run with each fold and seed, ordered by fold and seed.
        earlier: earlier runs with the same folds and seeds, in the order in which they finished.
        row: row name: the model, its weights, and whatever else distinguishes the row from others.
        column: column name: data set and setting.
    """

    runs: tuple[Found, ...]
    earlier: tuple[Found, ...] = ()
    row: str
    column: str

    @property
    def newest(self) -> RunRecord:
        """Record of the run that finished last."""
        return max(self.runs, key=lambda run: run.record.finished).record

    @property
    def averages(self) -> Averages:
        """The metric, averaged over the runs."""
        return Averages.of((run.record for run in self.runs), self.newest.metric or "")

    @property
    def reported(self) -> Spread | None:
        """Our result: the metric at the epochs chosen on validation splits, or else after the last epoch."""
        return self.averages.best if self.newest.reports_best else self.averages.last

    @property
    def cautions(self) -> list[str]:
        """Marks from `leakage` on the initial weights."""
        return sorted({run.record.caution for run in self.runs} - {""})

    @property
    def extent(self) -> str:
        """Description of the evaluated samples, such as "5 of 5 folds", and of the reported epoch."""
        held_out, folds = sorted(self._held_out), self._folds
        seeds = len({run.record.seed for run in self.runs})
        if not held_out:
            words = [self.newest.evaluated]
        elif len(held_out) == 1:
            words = [f"fold {held_out[0]} of {len(folds)}"]
        else:
            words = [f"{len(held_out)} of {len(folds)} folds"]
        if seeds > 1:
            words.append(f"{seeds} seeds")
            words += [f"{len(self.runs)} runs"] * (len(held_out) > 1)
        if self.newest.epochs:
            words.append("epoch chosen on validation split" if self.newest.reports_best else "last epoch")
        return ", ".join([*words, *self.cautions])

    @property
    def published(self) -> PublishedResult | None:
        """Published result for the same data set, setting, metric and weights.

        None if the results cannot be compared: some folds were not evaluated, the model was trained on
        evaluated samples, or a caution applies. Results that others measured are never included.
        """
        record, held_out = self.newest, self._held_out
        if record.is_of_training_data or self.cautions or (held_out and held_out != self._folds):
            return None
        ours = (record.dataset, record.setting, record.metric)
        hashes = _hashes(record)
        return next(
            (
                result
                for result in record.published
                if (result.dataset, result.setting, result.metric or record.metric) == ours
                and result.weights in hashes
                and result.measured_by is None
            ),
            None,
        )

    @property
    def _held_out(self) -> set[int]:
        return {fold for run in self.runs for fold in run.record.held_out}

    @property
    def _folds(self) -> set[int]:
        return {fold for run in self.runs for fold in run.record.folds}


def make_entries(found: Iterable[Found]) -> list[Entry]:
    """Group results into cells, ordered by row and column."""
    listed = [run for run in found if run.record.metric is not None and run.record.listed]
    cells: dict[tuple[Any, ...], list[Found]] = defaultdict(list)
    models: dict[tuple[Any, ...], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(listed, key=lambda run: (run.record.finished, run.folder)):
        record, arguments = run.record, digest(run.identity.get("Model"))
        model = (record.model, _hashes(record))
        cell = (*model, arguments, record.dataset, record.setting)
        cells[cell].append(run)
        models[model][arguments].append(run)
    weights_names = _weights_names([run.record for run in listed])
    arguments_names = {
        model: _names("arguments", groups, section="Model") for model, groups in models.items()
    }
    entries = []
    for (model, weights, arguments, dataset, setting), runs in cells.items():
        row = [model, weights_names[weights], arguments_names[model, weights][arguments]]
        for kind, alike in _kinds(runs).items():
            latest = {(run.record.held_out, run.record.seed): run for run in alike}
            groups = _without_overlap(run.record.held_out for run in alike)
            for folds in groups:
                members = [latest[key] for key in sorted(latest) if key[0] in folds]
                held_out = " and ".join("+".join(map(str, part)) for part in folds)
                words = [*row, *kind, f"held out {held_out}" if len(groups) > 1 else ""]
                entries.append(
                    Entry(
                        runs=tuple(members),
                        earlier=tuple(
                            run for run in alike if run.record.held_out in folds and run not in members
                        ),
                        row=", ".join(filter(None, words)),
                        column=f"{dataset}, {setting}",
                    )
                )
    return sorted(entries, key=lambda entry: (entry.row, entry.column))


def _kinds(runs: Sequence[Found]) -> dict[tuple[str, ...], list[Found]]:
    """Split a cell into groups of runs that may be averaged; the keys are the words that distinguish them.

    The runs in a group have the same variant, metric, extent, number of samples and weights of the task.
    Runs are also split by name (or suffix) if two runs with the same held-out folds differ in it.
    """
    same: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    variants: dict[str, list[Found]] = defaultdict(list)
    for run in runs:
        record = run.record
        extent = record.evaluated
        if record.held_out:
            extent = "folds" if len(record.held_out) == 1 else f"{len(record.held_out)} folds a run"
        same[record.variant, str(record.metric), extent].append(run)
        variants[record.variant].append(run)
    variant_names = _names("variant", variants)
    kinds: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for (variant, *words), members in same.items():
        records = [run.record for run in members]
        folds = len({record.held_out for record in records})
        named = len({(record.name, record.held_out) for record in records}) > folds
        suffixed = len({(record.suffix, record.held_out) for record in records}) > folds
        sized = len({_samples(record) for record in records}) > 1
        weighted = len({record.task_weights for record in records}) > 1
        for run in members:
            suffix = f"suffix {run.record.suffix}" if run.record.suffix else "no suffix"
            size = f"{_samples(run.record):,} samples"
            hashes = " + ".join(weights.sha256[:HASH_DIGITS] for weights in run.record.task_weights)
            parts = (
                run.record.name if named else "",
                suffix if suffixed else "",
                size if sized else "",
                f"weights of the task {hashes or 'none'}" if weighted else "",
            )
            kind = (variant_names[variant], *words, *parts)
            kinds[kind].append(run)
    differing = [len(set(words)) > 1 for words in zip(*kinds, strict=True)]
    return {
        tuple(word for word, differs in zip(kind, differing, strict=True) if differs): members
        for kind, members in kinds.items()
    }


def _samples(record: RunRecord) -> int:
    """Return the number of samples in all splits or, if no folds were held out, of evaluated samples."""
    return record.listed_samples if record.held_out else record.samples.get("test", 0)


def _without_overlap(held_out: Iterable[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Group sets of folds so that no two sets in a group overlap."""
    groups: list[list[tuple[int, ...]]] = []
    for folds in sorted(set(held_out)):
        for group in groups:
            if not any(set(folds) & set(other) for other in group):
                group.append(folds)
                break
        else:
            groups.append([folds])
    return groups


def _hashes(record: RunRecord) -> tuple[str, ...]:
    return tuple(weights.sha256 for weights in record.weights)


def _weights_names(records: Sequence[RunRecord]) -> dict[tuple[str, ...], str]:
    """Name weights by their files, and add hashes to names that several weights share."""
    names = {_hashes(record): " + ".join(file.name for file in record.weights) for record in records}
    taken = list(names.values())
    for hashes, name in names.items():
        if taken.count(name) > 1:
            names[hashes] = f"{name} ({' + '.join(sha256[:HASH_DIGITS] for sha256 in hashes)})"
    return names | {(): "random weights"}


def _names(what: str, groups: Mapping[str, Sequence[Found]], *, section: str | None = None) -> dict[str, str]:
    """Name each group of runs by its difference from the others; the name of a single group is "".

    If only one key differs, the name is this key with its value. Otherwise it is the first of these that is
    unique: the protocol's name; a few keys with their values, and "..." if more differ; the group's digest.

    Args:
        what: noun to put before a digest, such as "variant".
        groups: runs of each group, by the group's digest.
        section: protocol section to compare; None for all sections.
    """
    if len(groups) == 1:
        return dict.fromkeys(groups, "")
    values = {
        group: values_by_path(
            {key: part for key, part in runs[-1].identity.items() if section in (None, key)}
        )
        for group, runs in groups.items()
    }
    keys = sorted({key for each in values.values() for key in each})
    differing = [key for key in keys if len({_text(each, key) for each in values.values()}) > 1]
    protocols = {group: {run.record.name for run in runs} for group, runs in groups.items()}
    unique = {name for names in protocols.values() if len(names) == 1 for name in names}
    if len(differing) > 1 and len(unique) == len(groups):
        return {group: "".join(names) for group, names in protocols.items()}
    keys = _distinguishing_keys(values, differing) if all(values.values()) else []
    if not keys:
        return {group: f"{what} {group}" for group in groups}
    more = ["..."] if len(differing) > len(keys) else []
    return {
        group: ", ".join([*(f"{key} {_text(each, key)}" for key in keys), *more])
        for group, each in values.items()
    }


def _distinguishing_keys(values: Mapping[str, Mapping[str, Json]], differing: Sequence[str]) -> list[str]:
    """Choose a few keys whose values distinguish all groups; return [] if that takes too many keys."""
    chosen: list[str] = []

    def apart(key: str) -> tuple[int, bool]:
        texts = {tuple(_text(each, shown) for shown in (*chosen, key)) for each in values.values()}
        return len(texts), all(key in each for each in values.values())

    while differing and len(chosen) < _MAX_KEYS:
        chosen.append(max(differing, key=apart))
        if apart(chosen[-1])[0] == len(values):
            return chosen
    return []


def _text(values: Mapping[str, Json], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."
