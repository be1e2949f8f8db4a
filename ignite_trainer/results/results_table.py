"""Writes `table.md` to the root of all results, in the form of the paper's table.

Each row is a model with its initial weights, each column a data set with a setting. A cell shows the mean
over the runs after their last epoch, next to the published result. Details of each cell follow the table.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from ignite_trainer.api import file_names
from ignite_trainer.protocol.identity import classes_of, identity
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.results.leakage import MEANING
from ignite_trainer.results.record import RunRecord, Spread
from ignite_trainer.results.table_cells import HASH_DIGITS, Entry, Found, make_entries
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import write_json, write_text
from ignite_trainer.support.formatting import (
    BEST_IS_OPTIMISTIC,
    inert,
    markdown_link,
    markdown_table,
    percent,
    readable,
    remarks_on_best,
)

_PATIENCE_SECONDS = 60  # for another process, which needs far less
_RUN_HEADER = ("run", "fold", "seed", "last", "best (epoch)", "last checkpoint, sha256", "source revision")


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
    return {"cells": [_entry_json(entry) for entry in entries], "unreadable": list(unreadable)}


def to_markdown(entries: Sequence[Entry], unreadable: Sequence[str]) -> str:
    """Write the table and its details as Markdown."""
    columns = sorted({entry.column for entry in entries})
    rows: dict[str, list[str]] = {entry.row: [entry.row, *[""] * 2 * len(columns)] for entry in entries}
    for entry in entries:
        place = 1 + 2 * columns.index(entry.column)
        rows[entry.row][place : place + 2] = _cell_texts(entry)
    header = ["model, initial weights", *(title for column in columns for title in (column, "published"))]
    parts = ["# Results", markdown_table(header, [rows[row] for row in sorted(rows)])]
    if entries:
        parts.append(" ".join(_remarks(entries)))
    parts += map(_details, entries)
    if unreadable:
        files = "\n".join(f"- {inert(path)}" for path in unreadable)
        parts.append(f"## Unreadable results, which are omitted\n\n{files}")
    return "\n\n".join(parts) + "\n"


def _remarks(entries: Sequence[Entry]) -> list[str]:
    """Return the sentences needed to understand the table."""
    sentences = ["Values are from the last epoch; metrics with values between 0 and 1 are in per cent."]
    if any(entry.averages.last and entry.averages.last.deviation is not None for entry in entries):
        sentences.append(
            "Means and sample standard deviations (±) are over the folds, after averaging the seeds of each "
            "fold. If all runs evaluated the same samples, they are over the runs."
        )
    if any(entry.averages.best and entry.newest.held_out and entry.newest.epochs for entry in entries):
        sentences.append(BEST_IS_OPTIMISTIC)
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
            "A published result is shown only for the same data set, setting, metric and weights, and only "
            "if the whole data set was evaluated."
        )
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
    last, published = entry.averages.last, entry.published
    ours = f"{_spread_text(entry, last) if last else 'not finite'} ({entry.extent})"
    if published is None:
        return ours, ""
    return ours, percent(published, decimals=2) if entry.newest.share else readable(published)


def _details(entry: Entry) -> str:
    record, best = entry.newest, entry.averages.best
    weights = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in record.weights)
    facts = {
        "Protocol": f"{record.name}, variant {record.variant}",
        "Epochs": str(record.epochs),
        "Metric": record.metric or "none",
        "Best epochs": _spread_text(entry, best) if best else "",
        "Initial weights": weights or "random",
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
    columns = zip(_RUN_HEADER, *map(_run_cells, runs), strict=True)
    header, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return markdown_table(header, rows)


def _run_cells(run: Found) -> list[str]:
    record = run.record
    last, best = record.value(record.metric or "")
    of_best = record.best_of(record.metric or "")
    return [
        run.folder,
        ", ".join(map(str, record.held_out)),
        str(record.seed),
        "" if last is None else readable(last),
        f"{readable(best)} ({of_best.epoch})" if of_best and best is not None else "",
        record.checkpoint.sha256[:HASH_DIGITS] if record.checkpoint else "",
        record.revision or "",
    ]


def _entry_json(entry: Entry) -> dict[str, Any]:
    keys = {"model", "weights", "dataset", "setting", "variant", "metric", "name", "epochs"}
    return {
        "row": entry.row,
        "column": entry.column,
        "extent": entry.extent,
        **entry.averages.to_json(),
        "published": entry.published,
        **entry.newest.model_dump(mode="json", include=keys),
        "runs": [_run_json(run) for run in entry.runs],
        "earlier": [_run_json(run) for run in entry.earlier],
    }


def _run_json(run: Found) -> dict[str, Any]:
    keys = {"suffix", "held_out", "seed", "last", "best", "checkpoint", "revision", "finished"}
    return {"folder": run.folder, **run.record.model_dump(mode="json", include=keys)}
