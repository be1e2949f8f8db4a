"""Runs a sweep: one run for every combination of the values in a protocol's `Sweep`.

A sweep that was stopped resumes when its command is repeated. Its files:

```text
<saved_models_path>/<name>/sweep[_<suffix>]_<digest>/     no suffix if the fold is swept: suffixes name folds
    sweep.json              protocol, seed, and the values of each run
    fold-1/ fold-2/ ...     run folders. An unfinished run resumes from its last state. If it cannot, its
                            folder is renamed to fold-2_unfinished-1, and the run starts over. The traceback
                            of an unexpected error is in error.txt.
    summary.json sweep.md   results so far, updated after every run
    report.html             the same with plots, updated after every run
    predictions.csv         pooled predictions of all folds, once all runs are finished, if only the fold
                            is swept; the report then has plots of them
```
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import secrets
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ignite_trainer.api import file_names
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.commands.sweeps import sweep_summary
from ignite_trainer.commands.sweeps.combinations import Combination, combinations, is_fold
from ignite_trainer.commands.sweeps.groups import varies_fold_alone
from ignite_trainer.commands.sweeps.sweep_summary import Pooled, Summary
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.identity import purpose
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import validate
from ignite_trainer.reporters.page import media, prediction_sections, render
from ignite_trainer.reporters.page.render import Section
from ignite_trainer.results import run_folder
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs import experiment, resuming
from ignite_trainer.support.distributed import is_main, run_on_main, world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import alone_in, write_json, write_text
from ignite_trainer.support.terminal import add_row, make_table, show

_MAX_CURVES = 20  # learning curves in a report


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A validated sweep, with its runs and its folder."""

    protocol: Protocol
    runs: tuple[Combination, ...]
    folder: Path


def make_plan(protocol: Protocol, *, trusted: Iterable[str] = (), source: str | None = None) -> Plan:
    """Check all runs of a sweep without writing anything. See `combinations` for arguments and errors."""
    runs = combinations(protocol, trusted=trusted, source=source)
    suffix = None if any(map(is_fold, runs[0].values)) else protocol.setup.suffix
    own = purpose(protocol, runs[0].blueprint.classes)
    name = run_folder.slug("_".join(filter(None, ["sweep", suffix, own])))
    folder = run_folder.runs_of(protocol.setup) / name
    return Plan(protocol=protocol, runs=runs, folder=folder)


def run_sweep(plan: Plan) -> Summary:
    """Run the unfinished runs one after another. A failed run does not stop the others.

    Raises:
        ProtocolError: Another process is running this sweep, or the sweep's folder cannot be used.
    """
    with contextlib.ExitStack() as lock:
        seed, records = run_on_main(lambda: _begin_or_resume(plan, lock))
        if records:
            show(
                f"{len(records)} of {len(plan.runs)} runs are already finished; skipping {', '.join(records)}"
            )
        failures: dict[str, str] = {}
        for number, run in enumerate(plan.runs, start=1):
            if run.name in records:
                continue
            show(f"Run {number} of {len(plan.runs)}: {run.name}")
            outcome = _attempt(run, plan.folder / run.name, seed=seed)
            if isinstance(outcome, RunRecord):
                records[run.name] = outcome
            else:
                print(f"error: {run.name}: {outcome}", file=sys.stderr)
                failures[run.name] = outcome
            gc.collect()  # engines, handlers and the model refer to each other
            if is_main():
                _write_summary(plan, records, failures)
        summary = run_on_main(lambda: _write_summary(plan, records, failures))
    _show_summary(summary)
    if is_main() and (line := render.report_line(plan.folder)):
        show(line)
    return summary


def _begin_or_resume(plan: Plan, lock: contextlib.ExitStack) -> tuple[int, dict[str, RunRecord]]:
    """Lock the sweep's folder. Return its seed and the records of finished runs, by name."""
    run_folder.check_writable(plan.protocol.setup)
    plan.folder.mkdir(parents=True, exist_ok=True)
    lock.enter_context(alone_in(plan.folder, name="sweep"))
    records = {}
    for run in plan.runs:
        with contextlib.suppress(ProtocolError):  # the run is not finished
            records[run.name] = RunRecord.read(plan.folder / run.name / file_names.RESULT)
    return _seed(plan), records


def _attempt(run: Combination, folder: Path, *, seed: int) -> RunRecord | str:
    """Run or resume one run. Return its record or, if it failed, the reason."""
    blueprint = run.blueprint
    if blueprint.protocol.setup.seed is None:
        blueprint = blueprint.with_setup(seed=seed)
    try:
        resume = run_on_main(lambda: _can_resume(blueprint, folder))
        return experiment.run(blueprint, folder=folder, resume=resume).record
    except (RunFailed, ProtocolError) as error:
        if world_size() > 1:  # the other processes may be in the middle of a step
            raise
        return str(error)
    except KeyboardInterrupt:
        show("The sweep was stopped; repeat the command to continue it.")
        raise
    except Exception as error:  # such as a mismatch of shapes in the model; the other runs may succeed
        if world_size() > 1:
            raise
        path = folder / "error.txt"
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {path})"


def _seed(plan: Plan) -> int:
    """Return the seed for runs whose protocol has none; it is drawn once and stored in `sweep.json`."""
    path = plan.folder / file_names.SWEEP
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            drawn, held = int(content["seed"]), validate(content["protocol"])
        except (OSError, ValueError, KeyError) as error:
            raise ProtocolError(
                f"{path} cannot be read ({error!r}); it holds the seed of the runs. Restore it, or rename "
                "the folder to start a new sweep."
            ) from error
        classes = plan.runs[0].blueprint.classes
        if purpose(held, classes) != purpose(plan.protocol, classes):
            raise ProtocolError(
                f"{plan.folder} already holds a sweep of a different protocol (see {path.name}); choose "
                "another root with -M, or rename this folder."
            )
        return drawn
    seed = plan.protocol.setup.seed
    seed = secrets.randbelow(2**32) if seed is None else seed
    content = {
        "protocol": plan.protocol.to_json(),
        "seed": seed,
        "keys": list(plan.runs[0].values),
        "runs": {run.name: run.values for run in plan.runs},
    }
    write_json(path, content)
    return seed


def _can_resume(blueprint: Blueprint, folder: Path) -> bool:
    """Return whether a run can resume from its last state. If it cannot, rename its folder to keep its files.

    Raises:
        ProtocolError: Another process is using the folder.
    """
    if resuming.can_resume(blueprint, folder):
        show(f"{folder.name} is unfinished; resuming from its last state.")
        return True
    if not folder.exists():
        return False
    with alone_in(folder, name="run"):
        pass
    names = (folder.with_name(f"{folder.name}_unfinished-{number}") for number in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    folder.rename(kept)
    show(
        f"{folder.name} is unfinished and has no state that fits this protocol. It starts over; its old "
        f"files are in {kept.name}."
    )
    return False


def _write_summary(plan: Plan, records: Mapping[str, RunRecord], failures: Mapping[str, str]) -> Summary:
    summary = Summary(name=plan.protocol.setup.name, runs=plan.runs, records=records, failures=failures)
    predictions = _pool(plan, summary)
    if predictions is not None:
        (group,) = summary.groups
        pooled = Pooled(
            held_out=len(group.held_out),
            folds=len(group.folds),
            samples=len(predictions),
            accuracy=None if predictions.multilabel else float(predictions.correct.mean()),
        )
        summary = replace(summary, pooled=pooled)
    header, runs, means = sweep_summary.to_cells(summary)
    remarks = sweep_summary.remarks(summary)
    lead = Section(title=f"Sweep of {summary.name}", text=remarks, header=header, rows=[*runs, *means])
    sections: list[Section] = []
    path, folders = plan.folder / file_names.PREDICTIONS, [plan.folder / name for name in records]
    if predictions is not None:
        predictions.write_csv(path)
        sections += prediction_sections(predictions, plan.folder)
        sections += media.hardest_section(folders)
    else:
        path.unlink(missing_ok=True)  # left by an earlier call
    if drawn := [folder for folder in folders if (folder / file_names.CURVE).exists()][:_MAX_CURVES]:
        sections.append(Section(title="Learning curves", parts=list(map(_curve, drawn))))
    write_json(plan.folder / "summary.json", sweep_summary.to_json(summary))
    write_text(plan.folder / "sweep.md", sweep_summary.to_markdown(summary))
    write_text(plan.folder / file_names.PAGE, render.render(lead, sections))
    return summary


def _curve(folder: Path) -> Section:
    """Plot the learning curve of a run, with a link to its report."""
    report = {f"{folder.name}/{file_names.PAGE}": ""} if (folder / file_names.PAGE).exists() else {}
    shown = render.picture(folder / file_names.CURVE, f"Loss and metrics of {folder.name} by epoch")
    return Section(title=folder.name, links=report, exhibits=[shown])


def _pool(plan: Plan, summary: Summary) -> Predictions | None:
    """Pool the predictions of all runs; return None unless all are finished and held out separate folds."""
    if summary.missing or not varies_fold_alone(plan.runs):
        return None
    (group,) = summary.groups
    if group.no_mean or group.parts < len(plan.runs):
        return None
    paths = {run.name: plan.folder / run.name / file_names.PREDICTIONS for run in plan.runs}
    if not all(path.exists() for path in paths.values()):
        return None
    return Predictions.pooled(
        [
            Predictions.read_csv(path, multilabel=summary.records[name].multilabel)
            for name, path in paths.items()
        ]
    )


def _show_summary(summary: Summary) -> None:
    header, runs, means = sweep_summary.to_cells(summary)
    table = make_table(f"Sweep of {summary.name}")
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in runs:
        add_row(table, *row)
    table.add_section()
    for row in means:
        add_row(table, *row)
    show(table)
    for remark in sweep_summary.remarks(summary):
        show(remark)
