"""The run on the terminal: a table at the start, a line for each evaluation, a table at the end.

The engines draw the progress bars.
"""

from __future__ import annotations

from collections.abc import Sequence

from ignite_trainer.api.reporter import (
    SPLIT_NAMES,
    Evaluated,
    Event,
    Fault,
    Iteration,
    Measured,
    Reporter,
    RunEnd,
    RunStart,
)
from ignite_trainer.api.self_description import listing
from ignite_trainer.support.formatting import duration, readable, remarks_on_best, title_of_best, value_cells
from ignite_trainer.support.progress import is_terminal
from ignite_trainer.support.terminal import show, show_matrix, show_rows


class Console(Reporter):
    """Prints to standard output, above the progress bars.

    Uses colours only on a terminal, and only if `NO_COLOR` is not set. Tables wrap at the terminal's width;
    other lines are not wrapped, so that paths can be copied.
    """

    _run: RunStart

    def on_start(self, run: RunStart) -> None:
        """Print the start table."""
        self._run = run
        show_rows(run.name, run.facts.items())

    def on_resume(self, run: RunStart, history: Sequence[Event]) -> None:  # noqa: ARG002
        """Print the start table, without the history."""
        self.on_start(run)

    def on_iteration(self, step: Iteration) -> None:
        """Print one line about the step, unless there is a progress bar."""
        if not is_terminal():
            last = self._run.epochs * self._run.iterations_per_epoch
            rate = f"{step.samples_per_second:.3g} samples/s"
            show(f"step {step.iteration:>{len(str(last))}}/{last}  loss {readable(step.loss)}  ({rate})")

    def on_evaluation(self, result: Evaluated) -> None:
        """Print one line of metrics."""
        epochs = self._run.epochs
        epoch = f"epoch {result.epoch:>{len(str(epochs))}}/{epochs}"
        labels = {
            line.key: line.label
            for window in self._run.windows
            for line in window.lines
            if line.split == result.split
        }
        values = "  ".join(
            f"{labels.get(key, key)} {readable(value)}" for key, value in result.metrics.items()
        )
        show(f"{epoch}  {f'{SPLIT_NAMES[result.split]} set':<12}  {values}  ({result.seconds:.1f} s)")

    def on_measurement(self, result: Measured) -> None:
        """Print an evaluation's table."""
        show_matrix(f"{result.name}, held-out set, epoch {result.epoch}", *value_cells(result.table))

    def on_fault(self, fault: Fault) -> None:
        """Print one line that names the first few affected samples."""
        about = f" ({listing(fault.samples)})" if fault.samples else ""
        show(f"epoch {fault.epoch}, step {fault.iteration}: {fault.what}; {fault.done}{about}")

    def on_end(self, end: RunEnd) -> None:
        """Print the last and best values side by side, then the paths of the checkpoints and results."""
        best = {entry.label: f"{readable(entry.value)} ({entry.epoch})" for entry in end.best}
        columns = [f"last (epoch {end.last_epoch})"]
        if best:
            columns.append(f"{title_of_best(entry.chosen_on for entry in end.best)} (epoch)")
        rows = {
            label: [readable(end.last[label]) if label in end.last else "", best.get(label, "")]
            for label in dict.fromkeys([*end.last, *best])
        }
        show_matrix(f"Results on the held-out set, after {duration(end.seconds)}", columns, rows)
        if end.stopped_early:
            show("Stopped early: no better value on the validation split for Setup.patience epochs.")
        if self._run.caution:
            show(self._run.caution)
        for remark in remarks_on_best(entry.epoch for entry in end.best):
            show(remark)
        for what, count in end.faults.items():
            show(f"{what}: {count}")
        for entry in end.best:
            if entry.checkpoint is not None:
                show(f"Best checkpoint ({entry.label}): {entry.checkpoint}")
        if end.last_checkpoint is not None:
            show(f"Last checkpoint: {end.last_checkpoint}")
        show(f"Results: {self._run.folder}")
