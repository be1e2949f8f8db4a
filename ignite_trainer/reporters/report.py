"""`report.html`: the page about a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ignite_trainer.api import file_names
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Evaluated, Measured, Reporter, RunEnd, RunStart
from ignite_trainer.reporters.page import media, prediction_sections, render
from ignite_trainer.reporters.page.render import Section
from ignite_trainer.support.files import write_text
from ignite_trainer.support.formatting import (
    CHOSEN_ON,
    duration,
    readable,
    remarks_on_best,
    title_of_best,
    value_cells,
)

_FILES = {
    file_names.PREDICTIONS: "target, prediction and scores of every held-out sample",
    file_names.LOG: "all recorded values, in order",
    file_names.PROTOCOL: "complete protocol, ready to run again",
    file_names.ENVIRONMENT: "versions, device, seed, source revision and command",
}


class Report(Reporter):
    """Writes `report.html`, a page with embedded plots, into the run's folder when the run ends.

    The report shows the predictions of the last pass over the held-out split and each evaluation's last
    table. It links only files that already exist, so list this reporter after the reporters that write
    files.
    """

    _run: RunStart

    def __init__(self) -> None:
        self._predictions: Predictions | None = None
        self._measured: dict[str, Measured] = {}

    def on_start(self, run: RunStart) -> None:
        """Store the description of the run."""
        self._run = run

    def on_evaluation(self, result: Evaluated) -> None:
        """Store the predictions for the held-out split."""
        if result.split == "test":
            self._predictions = result.predictions

    def on_measurement(self, result: Measured) -> None:
        """Store an evaluation's latest table."""
        self._measured[result.name] = result

    def on_end(self, end: RunEnd) -> None:
        """Write the report."""
        run, predictions = self._run, self._predictions
        facts = dict(run.facts)
        if revision := run.environment.get("revision"):
            facts["Revision"] = str(revision)
        facts["Duration"] = duration(end.seconds)
        sections = [Section(title="Run", rows=list(facts.items()), left=2)]
        if run.epochs and (curve := run.folder / file_names.CURVE).exists():
            shown = render.picture(curve, "Loss and metrics by epoch")
            sections.append(Section(title="Learning curve", exhibits=[shown]))
        if predictions is not None:
            media.save_hardest(predictions, run.gallery, run.folder)
            sections += prediction_sections(predictions, run.folder)
            sections += media.hardest_section([run.folder])
        sections += media.augmented_section(run.gallery)
        if learned := run.gallery.model():
            sections.append(Section(title="What was learned", exhibits=learned))
        sections += map(_measured, self._measured.values())
        if "Task" in run.protocol:
            sections.append(Section(title="Task", code=_json(run.protocol["Task"])))
        sections.append(Section(title="Protocol", folded="Complete protocol", code=_json(run.protocol)))
        sections.append(Section(title="Files", links=_files(run.folder, end)))
        write_text(run.folder / file_names.PAGE, render.render(_lead(run, end), sections))


def _lead(run: RunStart, end: RunEnd) -> Section:
    """Create the top of the page: a table with each metric's last and best values."""
    last = {label: readable(value) for label, value in end.last.items()}
    best = {entry.label: f"{readable(entry.value)} (epoch {entry.epoch})" for entry in end.best}
    text = [run.caution] if run.caution else []
    if not end.last_epoch:
        text.append("Evaluation only: nothing was trained.")
    elif best:
        text += dict.fromkeys(CHOSEN_ON[entry.chosen_on] for entry in end.best)
        text += [*remarks_on_best(entry.epoch for entry in end.best)]
    if end.stopped_early:
        text.append(
            "Training stopped early: no better value on the validation split for Setup.patience epochs."
        )
    if not last and not best:
        text.append("There are no metrics.")
    header = ["metric", f"last epoch ({end.last_epoch})" if end.last_epoch else "value"]
    rows = [[label, last.get(label, ""), best.get(label, "")] for label in {**last, **best}]
    if best:
        header.append(title_of_best(entry.chosen_on for entry in end.best))
    return Section(title=run.name, text=text, header=header, rows=[row[: len(header)] for row in rows])


def _measured(result: Measured) -> Section:
    columns, rows = value_cells(result.table)
    return Section(
        title=result.name,
        text=[f"Held-out split, epoch {result.epoch}."],
        header=["", *columns],
        rows=[[row, *cells] for row, cells in rows.items()],
    )


def _files(folder: Path, end: RunEnd) -> dict[str, str]:
    found = {folder / name: purpose for name, purpose in _FILES.items()}
    for best in end.best:
        if best.checkpoint is not None:
            found[best.checkpoint] = f"weights of the best epoch by {best.label}"
    if end.last_checkpoint is not None:
        found[end.last_checkpoint] = "complete training state after the last epoch, for --resume"
    return {path.relative_to(folder).as_posix(): text for path, text in found.items() if path.exists()}


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)
