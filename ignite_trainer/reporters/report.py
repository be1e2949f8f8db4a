"""`report.html` and `report.md`: a finished run as people look at it, on one page with its pictures."""

from __future__ import annotations

from pathlib import Path, PurePath

from ignite_trainer.evaluation import Table
from ignite_trainer.formatting import duration, readable, remarks_on_best
from ignite_trainer.markdown import folded, inert, json_block, link, picture, table
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import exhibits, page, prediction_sections
from ignite_trainer.reporters.reporter import Best, Evaluated, Measured, Reporter, RunEnd, RunStart
from ignite_trainer.results import write_text

_FILES = {
    "predictions.csv": "for every sample of the held-out split target, prediction and scores",
    "metrics.jsonl": "every value of the run, in its order",
    "protocol.json": "the whole protocol: runs again as it is",
    "environment.json": "versions, device, seed, revision of the source, command",
}


class Report(Reporter):
    """Writes `report.html` and `report.md` into the run's folder at its end, and what they show.

    The page holds its pictures, and can be sent to others; the Markdown names those beside it.

    The predictions are those of the last pass over the held-out split, the tables of `Evaluations` the last
    ones of each. Only files that are there are linked: name this reporter after those that write some.
    """

    def __init__(self) -> None:
        self._run: RunStart | None = None
        self._predictions: Predictions | None = None
        self._measured: dict[str, Measured] = {}

    def on_start(self, run: RunStart) -> None:
        """Keep what the run is."""
        self._run = run

    def on_evaluation(self, result: Evaluated) -> None:
        """Keep the predictions of the held-out split."""
        if result.split == "test":
            self._predictions = result.predictions

    def on_measurement(self, result: Measured) -> None:
        """Keep what an evaluation found."""
        self._measured[result.name] = result

    def on_end(self, end: RunEnd) -> None:
        """Write the report."""
        assert self._run is not None, "on_start comes first"
        run = self._run
        parts = [
            f"# {inert(run.name)}",
            _headline(end),
            run.caution,
            _run_section(run, end),
            _curve(run) if run.epochs else "",
            *self._of_predictions(run),
            exhibits.model_section(run.gallery, run.folder),
            *(_measured_section(result) for result in self._measured.values()),
            f"## Task\n\n{json_block(run.protocol['Task'])}" if "Task" in run.protocol else "",
            f"## Protocol\n\n{folded('All of it', json_block(run.protocol))}",
            _files(run.folder, end),
        ]
        text = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
        write_text(run.folder / "report.md", text)
        write_text(run.folder / page.FILE_NAME, page.to_html(text, run.folder, title=run.name))

    def _of_predictions(self, run: RunStart) -> list[str]:
        if self._predictions is None:
            return []
        return [
            prediction_sections(self._predictions, run.folder),
            exhibits.hardest_section(self._predictions, run.gallery, run.folder),
        ]


def _headline(end: RunEnd) -> str:
    """What was reached: a sentence for each metric, last epoch before best epoch."""
    best = {entry.label: entry for entry in end.best}
    sentences = [_sentence(label, end, best.get(label)) for label in dict.fromkeys([*end.last, *best])]
    if not end.last_epoch:
        sentences.insert(0, "Nothing was trained: the model was evaluated as it was given.")
    elif best:
        sentences.append(
            "The held-out split also chose the best epoch, so the figure of the last epoch is the honest one."
        )
        sentences += remarks_on_best(entry.epoch for entry in end.best)
    return " ".join(sentences or ["No metric was computed."])


def _sentence(label: str, end: RunEnd, best: Best | None) -> str:
    last = f" {readable(end.last[label])}" if label in end.last else ""
    if not end.last_epoch:
        return f"**{inert(label)}{last}** on the samples evaluated."
    text = f"**{inert(label)}{last}** after the last epoch ({end.last_epoch})"
    return f"{text}; best {readable(best.value)} (epoch {best.epoch})." if best else f"{text}."


def _run_section(run: RunStart, end: RunEnd) -> str:
    revision = run.environment.get("revision")
    rows = {
        **run.facts,
        **({"Revision": str(revision)} if revision else {}),
        "Duration": duration(end.seconds),
    }
    return f"## Run\n\n{table(['', ''], rows.items(), left=2)}"


def _curve(run: RunStart) -> str:
    if not (run.folder / "curve.png").exists():
        return ""
    return f"## Learning curve\n\n{picture(PurePath('curve.png'), 'Loss and metrics by epoch')}"


def _measured_section(result: Measured) -> str:
    return f"## {inert(result.name)}\n\nHeld-out split, epoch {result.epoch}.\n\n{_figures(result.table)}"


def _figures(figures: Table) -> str:
    columns = list(dict.fromkeys(column for values in figures.values() for column in values))
    rows = (
        [row, *(readable(values[name]) if name in values else "" for name in columns)]
        for row, values in figures.items()
    )
    return table(["", *columns], rows)


def _files(folder: Path, end: RunEnd) -> str:
    found = [(folder / name, purpose) for name, purpose in _FILES.items()]
    found += [
        (best.checkpoint, f"weights of the best epoch by {best.label}")
        for best in end.best
        if best.checkpoint is not None
    ]
    if end.last_checkpoint is not None:
        found.append((end.last_checkpoint, "the whole state after the last epoch, from which a run goes on"))
    return "## Files\n\n" + "\n".join(
        f"- {link(path.relative_to(folder))}: {inert(purpose)}" for path, purpose in found if path.exists()
    )
