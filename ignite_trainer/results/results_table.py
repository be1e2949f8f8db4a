"""Writes `table.md` to the root of all results, in the form of the paper's table.

Each row is a model with its initial weights, each column a data set with a setting. A cell shows the mean
over the runs after their last epoch, or at the epoch that the validation split chose, next to the published
result. Published results with their sources, and details of each cell, follow the table.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from filelock import FileLock

from ignite_trainer.api import file_names
from ignite_trainer.protocol.identity import classes_of, identity
from ignite_trainer.protocol.sections import Protocol, PublishedResult
from ignite_trainer.results.leakage import MEANING
from ignite_trainer.results.record import RunRecord, Spread
from ignite_trainer.results.table_cells import HASH_DIGITS, Entry, Found, make_entries
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import write_json, write_text
from ignite_trainer.support.formatting import (
    CHOSEN_ON,
    inert,
    markdown_link,
    markdown_table,
    percent,
    readable,
    remarks_on_best,
    title_of_best,
)

_PATIENCE_SECONDS = 60  # for another process, which needs far less
_RUN_HEADER = (
    "run",
    "fold",
    "validation fold",
    "seed",
    "last epoch",
    "",
    "last checkpoint, sha256",
    "source revision",
)


def update(root: Path) -> None:
    """Write `table.md` and `table.json` from all results; only log an error, as it should not fail a run."""
    try:
        with FileLock(root / ".table.lock", timeout=_PATIENCE_SECONDS):
            found, unreadable = read_results(root)
            entries = make_entries(found)
            write_json(root / "table.json", to_json(entries, unreadable))
            write_text(root / "table.md", to_markdown(entries, unreadable))
    except (OSError, RunFailed) as error:
        logging.getLogger(__name__).warning(
            "The table of results in %s could not be written: %s", root, error
        )


def read_results(root: Path) -> tuple[list[Found], list[str]]:
    """Read every result under the root.

    Returns:
        The readable results, and the sorted paths of unreadable result files, relative to the root.
    """
    found, unreadable = [], []
    for path in sorted(_result_files(root)):
        folder = path.parent.relative_to(root).as_posix()
        try:
            record = RunRecord.read(path)
        except ProtocolError:
            unreadable.append(f"{folder}/{file_names.RESULT}")
            continue
        computed = _identity(path.with_name(file_names.PROTOCOL))
        has_report = path.with_name(file_names.PAGE).exists()
        found.append(Found(folder=folder, record=record, identity=computed, has_report=has_report))
    return found, unreadable


def to_json(entries: Sequence[Entry], unreadable: Sequence[str]) -> dict[str, Any]:
    """Convert the table and its details to JSON types."""
    published = [each.figure.model_dump(mode="json") for each in _cited(entries)]
    return {
        "cells": [_entry_json(entry) for entry in entries],
        "published": published,
        "unreadable": list(unreadable),
    }


def to_markdown(entries: Sequence[Entry], unreadable: Sequence[str]) -> str:
    """Write the table and its details as Markdown."""
    cited = _cited(entries)
    of_others = [each for each in cited if each.figure.measured_by]
    cells: list[Entry | Cited] = [*entries, *of_others]
    columns = sorted({cell.column for cell in cells})
    rows = {cell.row: [cell.row, *[""] * 2 * len(columns)] for cell in cells}
    for entry in entries:
        place = 1 + 2 * columns.index(entry.column)
        rows[entry.row][place : place + 2] = _cell_texts(entry)
    for each in of_others:
        rows[each.row][1 + 2 * columns.index(each.column)] = each.text
    header = ["model, initial weights", *(title for column in columns for title in (column, "published"))]
    parts = ["# Results", markdown_table(header, [rows[row] for row in sorted(rows)])]
    if entries:
        parts.append(" ".join(_remarks(entries)))
    if cited:
        parts.append(_published_table(cited))
    parts += map(_details, entries)
    if unreadable:
        files = "\n".join(f"- {inert(path)}" for path in unreadable)
        parts.append(f"## Unreadable results, which are omitted\n\n{files}")
    return "\n\n".join(parts) + "\n"


def _remarks(entries: Sequence[Entry]) -> list[str]:
    """Return the sentences needed to understand the table."""
    others = " or, where stated, from the epoch that was best on the validation split"
    sentences = [
        f"Values are from the last epoch{others * any(entry.newest.reports_best for entry in entries)}; "
        "metrics with values between 0 and 1 are in per cent."
    ]
    if any(entry.reported and entry.reported.deviation is not None for entry in entries):
        sentences.append(
            "Means and sample standard deviations (±) are over the folds, after averaging the seeds of each "
            "fold. If all runs evaluated the same samples, they are over the runs."
        )
    trained = [entry.newest for entry in entries if entry.averages.best and entry.newest.epochs]
    sentences += dict.fromkeys(
        CHOSEN_ON[record.chosen_on] for record in trained if record.held_out or record.reports_best
    )
    runs = [run.record for entry in entries for run in (*entry.runs, *entry.earlier)]
    sentences += remarks_on_best(best.epoch for run in runs for best in run.best if best.label == run.metric)
    if any(entry.newest.is_of_training_data for entry in entries):
        sentences.append(
            '"Training data" marks values on samples that the model was trained on, which are not results.'
        )
    marks = sorted({mark for entry in entries for mark in entry.cautions})
    sentences += [f'"{mark[0].upper()}{mark[1:]}": {MEANING[mark]}' for mark in marks if mark in MEANING]
    if any(entry.newest.published for entry in entries):
        sentences.append(
            "A published result is shown next to ours only for the same data set, setting, metric and "
            "weights, and only if the whole data set was evaluated."
        )
    if any(each.figure.measured_by for each in _cited(entries)):
        sentences.append('Rows "measured by" others show values that they published, not our results.')
    return sentences


def _identity(path: Path) -> Mapping[str, Any]:
    """Read everything that affects the result from a run's `protocol.json`; return {} if it is unreadable."""
    try:
        protocol = Protocol.model_validate_json(path.read_text(encoding="utf-8"))
        return identity(protocol, classes_of(protocol))
    except (OSError, ValueError):
        return {}


def _result_files(root: Path) -> Iterator[Path]:
    """Find result files under the root, except in hidden folders and in subfolders of another run."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if file_names.RESULT in names:
            inner.clear()
            yield Path(folder) / file_names.RESULT


def _spread_text(entry: Entry, spread: Spread) -> str:
    return spread.text(percent if entry.newest.share else readable)


def _cell_texts(entry: Entry) -> tuple[str, str]:
    """Return our result and the published result."""
    reported, published = entry.reported, entry.published
    ours = f"{_spread_text(entry, reported) if reported else 'not finite'} ({entry.extent})"
    return ours, Cited(published, entry.newest.share).text if published else ""


class Cited(NamedTuple):
    """A published result that the protocols of the runs list.

    Attributes:
        figure: the result.
        share: True if tables show its metric in per cent.
    """

    figure: PublishedResult
    share: bool

    @property
    def row(self) -> str:
        """Name of the weights, and of those who measured the result if others did."""
        name = self.figure.name or self.figure.weights[:HASH_DIGITS]
        return f"{name}, measured by {self.figure.measured_by}" if self.figure.measured_by else name

    @property
    def column(self) -> str:
        """Data set and setting."""
        return f"{self.figure.dataset}, {self.figure.setting}"

    @property
    def text(self) -> str:
        """The value, with as many decimals as its source has."""
        value, decimals = self.figure.value, self.figure.decimals
        if self.share:
            return percent(value, decimals=2 if decimals is None else decimals)
        return readable(value) if decimals is None else f"{value:.{decimals}f}"


def _cited(entries: Iterable[Entry]) -> list[Cited]:
    """Return the published results of all entries; of equal cells, the one that was recorded last."""
    found: dict[tuple[str, ...], Cited] = {}
    for entry in sorted(entries, key=lambda entry: entry.newest.finished):
        record = entry.newest
        for figure in record.published:
            metric = figure.metric or record.metric or ""
            each = Cited(figure, record.share and metric == record.metric)
            found[each.column, each.row, figure.weights, metric] = each
    return [found[key] for key in sorted(found)]


def _published_table(cited: Iterable[Cited]) -> str:
    """List published results with their sources."""
    header = ("data set, setting", "weights", "metric", "value", "source")
    rows = [
        (each.column, each.row, each.figure.metric or "", each.text, each.figure.source or "not recorded")
        for each in cited
    ]
    return f"## Published results\n\n{markdown_table(header, rows)}"


def _details(entry: Entry) -> str:
    record, averages = entry.newest, entry.averages
    epochs = sorted({run.record.epochs for run in entry.runs})
    weights = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in record.weights)
    facts = {
        "Protocol": f"{record.name}, variant {record.variant}",
        "Epochs": " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))),
        "Metric": record.metric or "none",
        "Last epoch": _spread_text(entry, averages.last) if averages.last and record.reports_best else "",
        title_of_best([record.chosen_on]).capitalize(): _spread_text(entry, averages.best)
        if averages.best
        else "",
        "Initial weights": weights or "random",
        "Weights of the task": ", ".join(
            f"{file.name} (sha256 {file.sha256})" for file in record.task_weights
        ),
        "Training data": record.seen_in_training,
    }
    lines = "\n".join(f"- {name}: {inert(text)}" for name, text in facts.items() if text)
    parts = [f"## {inert(f'{entry.row}: {entry.column}')}", lines, _run_table(entry.runs)]
    if entry.earlier:
        parts.append("Earlier runs with the same fold and seed, which the results above do not include:")
        parts.append(_run_table(entry.earlier))
    runs = (*entry.runs, *entry.earlier)
    reports = [markdown_link(PurePosixPath(run.folder, file_names.PAGE)) for run in runs if run.has_report]
    if reports:
        parts.append(f"Reports: {', '.join(reports)}")
    return "\n\n".join(parts)


def _run_table(runs: Sequence[Found]) -> str:
    """List runs, without the columns that are empty for all of them."""
    title = f"{title_of_best(run.record.chosen_on for run in runs)} (epoch)"
    columns = zip([name or title for name in _RUN_HEADER], *map(_run_cells, runs), strict=True)
    header, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return markdown_table(header, rows)


def _run_cells(run: Found) -> list[str]:
    record = run.record
    last, best = record.value(record.metric or "")
    of_best = record.best_of(record.metric or "")
    return [
        run.folder,
        ", ".join(map(str, record.held_out)),
        ", ".join(map(str, record.validation)),
        str(record.seed),
        "" if last is None else readable(last),
        f"{readable(best)} ({of_best.epoch})" if of_best and best is not None else "",
        record.checkpoint.sha256[:HASH_DIGITS] if record.checkpoint else "",
        record.revision or "",
    ]


def _entry_json(entry: Entry) -> dict[str, Any]:
    keys = {
        "model",
        "weights",
        "seen_in_training",
        "dataset",
        "setting",
        "variant",
        "metric",
        "name",
        "epochs",
        "chosen_on",
    }
    return {
        "row": entry.row,
        "column": entry.column,
        "extent": entry.extent,
        **entry.averages.to_json(),
        "published": entry.published.value if entry.published else None,
        "published_source": entry.published.source if entry.published else None,
        **entry.newest.model_dump(mode="json", include=keys),
        "runs": [_run_json(run) for run in entry.runs],
        "earlier": [_run_json(run) for run in entry.earlier],
    }


def _run_json(run: Found) -> dict[str, Any]:
    keys = {"suffix", "held_out", "validation", "seed", "last", "best", "checkpoint", "revision", "finished"}
    return {"folder": run.folder, **run.record.model_dump(mode="json", include=keys)}
