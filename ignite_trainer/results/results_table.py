"""`table.md` in the root of all results: every result found there, as the paper's table.

A row is a model and its initial weights, a column a data set and how it was used; a cell has the mean over
the runs after their last epoch, and what was published beside it. Below is what it takes to believe a cell.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from ignite_trainer.api import file_names
from ignite_trainer.protocol.identity import identity
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.results import markdown
from ignite_trainer.results.leakage import MEANING
from ignite_trainer.results.record import RunRecord
from ignite_trainer.results.run_folder import write_json, write_text
from ignite_trainer.results.table_cells import HASH_DIGITS, Entry, Found, make_entries
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.formatting import percent, readable, remarks_on_best

_PATIENCE_SECONDS = 60  # another process is done in much less
_RUN_HEADER = ("run", "fold", "seed", "last", "best (epoch)", "last checkpoint, sha256", "source revision")


def update(root: Path) -> None:
    """Write `table.md` and `table.json` anew; what hinders that is logged, since no run should fail by it."""
    try:
        with FileLock(root / ".table.lock", timeout=_PATIENCE_SECONDS):
            found, unreadable = read_results(root)
            entries = make_entries(found)
            write_json(root / "table.json", to_json(entries, unreadable))
            write_text(root / "table.md", to_markdown(entries, unreadable))
    except (OSError, RunFailed) as error:
        logging.getLogger(__name__).warning("The table of results in %s is not written: %s", root, error)


def read_results(root: Path) -> tuple[list[Found], list[str]]:
    """Read every result under the root.

    Returns:
        The results, and the paths of those that cannot be read; relative to the root, in order.
    """
    found, unreadable = [], []
    for path in sorted(_result_files(root)):
        folder = path.parent.relative_to(root).as_posix()
        try:
            record = RunRecord.read(path)
            found.append(
                Found(
                    folder=folder,
                    record=record,
                    identity=record.identity or _identity(path.with_name(file_names.PROTOCOL)),
                    has_report=path.with_name(file_names.PAGE).exists(),
                )
            )
        except ProtocolError:
            unreadable.append(f"{folder}/{file_names.RESULT}")
    return found, unreadable


def to_json(entries: Sequence[Entry], unreadable: Sequence[str]) -> dict[str, Any]:
    """The table and what is below it, as JSON types."""
    return {"cells": [_entry_json(entry) for entry in entries], "unreadable": list(unreadable)}


def to_markdown(entries: Sequence[Entry], unreadable: Sequence[str]) -> str:
    """The table, and below it for every cell what it takes to believe it."""
    columns = sorted({entry.column for entry in entries})
    cells = {(entry.row, entry.column): entry for entry in entries}
    rows = []
    for row in sorted({entry.row for entry in entries}):
        texts = [_cell_texts(cells.get((row, column))) for column in columns]
        rows.append([row, *(text for pair in texts for text in pair)])
    header = ["model, initial weights", *(title for column in columns for title in (column, "published"))]
    parts = [
        "# Results",
        markdown.table(header, rows),
        *_remarks(entries),
        *(_details(entry) for entry in entries),
    ]
    if unreadable:
        files = "\n".join(f"- {markdown.inert(path)}" for path in unreadable)
        parts.append(f"## Left out, since they cannot be read\n\n{files}")
    return "\n\n".join(parts) + "\n"


def _remarks(entries: Sequence[Entry]) -> list[str]:
    """A paragraph of what must be said for the table to be understood; none of an empty one."""
    if not entries:
        return []
    said = ["Figures are those after the last epoch; shares are in per cent."]
    if any(last and last.deviation is not None for last, _ in (entry.figures for entry in entries)):
        said.append(
            "A mean is that of the folds, ± their sample standard deviation, with the seeds of each fold "
            "averaged first; where all runs evaluated the same samples, it is that of the runs."
        )
    if any(entry.figures.best and entry.newest.held_out and entry.newest.epochs for entry in entries):
        said.append(
            "The fold that is held out also chooses the best epoch, so the last one is the honest figure."
        )
    runs = [run.record for entry in entries for run in (*entry.runs, *entry.earlier)]
    said += remarks_on_best(best.epoch for run in runs for best in run.best if best.label == run.metric)
    if any(entry.newest.is_of_training_data for entry in entries):
        said.append('"Training data" is what a model reached on samples it was trained on: no result.')
    marks = sorted({mark for entry in entries for mark in entry.cautions})
    said += [f'"{mark[0].upper()}{mark[1:]}": {MEANING[mark]}' for mark in marks if mark in MEANING]
    if any(entry.newest.published for entry in entries):
        said.append(
            "What was published stands beside ours only where data set, setting, metric and weights are "
            "those it was published for, and nothing of the data set is left out."
        )
    return [" ".join(said)]


def _identity(path: Path) -> Mapping[str, Any]:
    """Return what a run computed, from its `protocol.json`: older records do not say. Empty if unreadable."""
    try:
        return identity(Protocol.model_validate_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _result_files(root: Path) -> Iterator[Path]:
    """Results under the root; below one of them, and in hidden folders, there are none."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if file_names.RESULT in names:
            inner.clear()
            yield Path(folder) / file_names.RESULT


def _cell_texts(entry: Entry | None) -> tuple[str, str]:
    if entry is None:
        return "", ""
    last = entry.figures.last
    figure = "not finite" if last is None else last.text(_writer(entry))
    published = entry.published
    if published is None:
        return f"{figure} ({entry.extent})", ""
    beside = percent(published, decimals=2) if entry.is_share else readable(published)
    return f"{figure} ({entry.extent})", beside


def _writer(entry: Entry) -> Callable[[float], str]:
    return percent if entry.is_share else readable


def _details(entry: Entry) -> str:
    record, best = entry.newest, entry.figures.best
    weights = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in record.weights)
    facts = {
        "Protocol": f"{record.name}, variant {record.variant}",
        "Epochs": str(record.epochs),
        "Metric": record.metric or "none",
        "Best epochs": best.text(_writer(entry)) if best else "",
        "Initial weights": weights or "random",
    }
    lines = "\n".join(f"- {name}: {markdown.inert(text)}" for name, text in facts.items() if text)
    runs = _run_table(entry.runs)
    every = (*entry.runs, *entry.earlier)
    reports = [markdown.link(PurePosixPath(run.folder, file_names.PAGE)) for run in every if run.has_report]
    parts = [f"## {markdown.inert(f'{entry.row}: {entry.column}')}", lines, runs]
    if entry.earlier:
        parts.append("Earlier runs of the same fold and seed, which the figures above leave out:")
        parts.append(_run_table(entry.earlier))
    return "\n\n".join([*parts, *([f"Reports: {', '.join(reports)}"] if reports else [])])


def _run_table(runs: Sequence[Found]) -> str:
    """List runs, without columns in which none of them has anything: folds and best epochs of evaluations."""
    columns = zip(_RUN_HEADER, *map(_run_cells, runs), strict=True)
    header, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return markdown.table(header, rows)


def _run_cells(run: Found) -> list[str]:
    record = run.record
    last, best = record.value(record.metric or "")
    epoch = next((one.epoch for one in record.best if one.label == record.metric), None)
    return [
        run.folder,
        ", ".join(map(str, record.held_out)),
        str(record.seed),
        "" if last is None else readable(last),
        "" if best is None else f"{readable(best)} ({epoch})",
        record.checkpoint.sha256[:HASH_DIGITS] if record.checkpoint else "",
        record.revision or "",
    ]


def _entry_json(entry: Entry) -> dict[str, Any]:
    record = entry.newest
    return {
        "row": entry.row,
        "column": entry.column,
        "extent": entry.extent,
        **entry.figures.to_json(),
        "published": entry.published,
        **record.model_dump(
            mode="json",
            include={"model", "weights", "dataset", "setting", "variant", "metric", "name", "epochs"},
        ),
        "runs": [_run_json(run) for run in entry.runs],
        "earlier": [_run_json(run) for run in entry.earlier],
    }


def _run_json(run: Found) -> dict[str, Any]:
    keys = {"suffix", "held_out", "seed", "last", "best", "checkpoint", "revision", "finished"}
    return {"folder": run.folder, **run.record.model_dump(mode="json", include=keys)}
